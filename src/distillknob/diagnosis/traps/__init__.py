"""The traps of a distillation, a file each: it turns scored tensors into rows and a `Finding`, and never sees a model.

`diagnose` asks those of `TRAPS` in their order, which is that of the findings. Teacher hacking (`teacher_hacking.py`)
is none of them: it is read off the log of a training, which a diagnosis before any training hasn't, so `distill` asks.
"""

from __future__ import annotations

from typing import Any

from distillknob.diagnosis.traps.base import Trap
from distillknob.diagnosis.traps.capacity_gap import CAPACITY_GAP
from distillknob.diagnosis.traps.off_policy import OFF_POLICY_INSTABILITY
from distillknob.diagnosis.traps.sequence_myopia import SEQUENCE_MYOPIA
from distillknob.diagnosis.traps.signal_sparsity import SIGNAL_SPARSITY
from distillknob.diagnosis.traps.student_prefixes import ACCURACY_ON_STUDENT_PREFIXES
from distillknob.diagnosis.traps.tail_noise import TAIL_NOISE
from distillknob.diagnosis.traps.teacher_marks import TEACHER_ACCURACY, TEACHER_LEAD
from distillknob.diagnosis.traps.wrong_trace_preference import (
    WRONG_TRACE_PREFERENCE,
    WRONG_TRACE_PREFERENCE_PER_TOKEN,
)

TRAPS: tuple[Trap[Any], ...] = (
    TEACHER_ACCURACY,
    TEACHER_LEAD,
    TAIL_NOISE,
    SIGNAL_SPARSITY,
    OFF_POLICY_INSTABILITY,
    SEQUENCE_MYOPIA,
    WRONG_TRACE_PREFERENCE,
    WRONG_TRACE_PREFERENCE_PER_TOKEN,
    CAPACITY_GAP,
    ACCURACY_ON_STUDENT_PREFIXES,
)
