"""The attacks by the name of their kind."""

from __future__ import annotations

from distillknob.attacks.answers import Answers
from distillknob.attacks.base import Attack
from distillknob.attacks.controls import Public, Solo, Untrained
from distillknob.attacks.deciphered import Deciphered
from distillknob.attacks.deduplicated import Deduplicated
from distillknob.attacks.hinted import Hinted
from distillknob.attacks.instructed import Instructed
from distillknob.attacks.mixed import Mixed
from distillknob.attacks.prefilled import Prefilled
from distillknob.attacks.resampled import Resampled
from distillknob.attacks.rewritten import Rewritten
from distillknob.attacks.selected import Selected
from distillknob.attacks.traces import Traces
from distillknob.attacks.verified import Verified

ATTACKS: dict[str, type[Attack]] = {
    # Controls.
    "untrained": Untrained,
    "solo": Solo,
    "public": Public,
    # Final answers and texts.
    "answers": Answers,
    "hinted": Hinted,
    "traces": Traces,
    "verified": Verified,
    "selected": Selected,
    "deduplicated": Deduplicated,
    "rewritten": Rewritten,
    "instructed": Instructed,
    "resampled": Resampled,
    "mixed": Mixed,
    "prefilled": Prefilled,
    "deciphered": Deciphered,
}
