"""What makes no sense together is refused with its reason, before any work; and losses that say that they stay finite
where the teacher gives a token 0 do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses import LOSSES
from distillknob.distillation.losses.token_loss import TokenLoss
from distillknob.distillation.token_rows import TokenRows
from distillknob.errors import BadInputError


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"method": "sdpo", "divergence": "gold"}, "nothing to show for a sample"),
        ({"method": "sdpo", "divergence": "uld"}, "nothing to show for a sample"),
        ({"method": "opd_pg", "tokens": "divergence"}, "use tokens entropy"),
        ({"method": "opd_pg", "tokens": "tip"}, "use tokens entropy"),
        ({"method": "opd_pg", "tokens": "soft_or"}, "use tokens entropy"),
        ({"method": "avsd", "tokens": "divergence"}, "use tokens entropy"),
        ({"method": "shred", "divergence": "adaptive_kl"}, "infinite"),
        ({"method": "shred", "divergence": "reverse_kl"}, "infinite"),
        ({"method": "shred", "divergence": "jsd", "beta": 1.0}, "infinite"),
        ({"method": "shred", "divergence": "top_k_jsd", "beta": 1.0}, "infinite"),
        ({"method": "shred", "divergence": "relations", "beta": 1.0}, "infinite"),
        ({"method": "shred", "divergence": "projection", "beta": 1.0}, "infinite"),
        ({"method": "shred", "divergence": "skew_reverse_kl", "skew": 0.0}, "infinite"),
        ({"method": "sft_gold", "teacher_weights": "average"}, "asks the teacher nothing"),
        ({"method": "ps_kd", "teacher_weights": "start"}, "asks the teacher nothing"),
        ({"method": "opd_rkl", "teacher_weights": "itself"}, "set beside itself"),
        ({"method": "gkd", "teacher_weights": "itself"}, "set beside itself"),
        ({"method": "sft", "traces": "teacher_pairs"}, "one trace of each pair"),
        ({"method": "opsd_clip", "options": {"clip": "a"}}, "clip to 'a': it must be a number"),
        ({"method": "gkd", "oracle": "zoo:teacher", "teacher": "zoo:teacher", "curve_steps": 5}, "another oracle"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInputError, match=reason):
        DistillConfig(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"method": "opd_pg", "tokens": "entropy"},
        {"method": "shred", "divergence": "skew_reverse_kl", "skew": 0.1},
        {"method": "opd_rkl", "teacher_weights": "itself", "context": "reference"},
        {"method": "opd_rkl", "teacher_weights": "start"},
        {"method": "sdpo", "divergence": "forward_kl"},
    ],
)
def test_what_does_is_taken(values: dict[str, Any]) -> None:
    assert DistillConfig(**values).method == values["method"]


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_infinite_at_zero_where_it_says_so_and_there_alone(name: str) -> None:
    loss = LOSSES[name](DistillConfig(method="gkd", soft_target="power", options={}))
    if not (isinstance(loss, TokenLoss) and loss.edits_targets):
        assert not (loss.edits_targets and name in ("reverse_kl", "adaptive_kl")) or loss.infinite_at_zero
        return
    student = torch.tensor([[0.5, 0.3, 0.2]]).log()
    teacher = torch.tensor([[0.7, 0.3, 0.0]]).log()
    value = loss.of_tokens(TokenRows(student, teacher, torch.tensor([0]), {}))
    assert bool(value.isinf().any()) == loss.infinite_at_zero
