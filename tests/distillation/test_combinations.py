"""What makes no sense together is refused with its reason, before any work; and losses that say that they stay finite
where the teacher gives a token 0 do."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from distilling import NEEDED
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses import LOSSES
from distillknob.distillation.losses.divergence import Divergence, EditedDivergence
from distillknob.distillation.losses.token_loss import TokenLoss
from distillknob.distillation.options import options_of
from distillknob.distillation.parts import PartsAlone
from distillknob.distillation.token_rows import TokenRows
from distillknob.errors import BadInputError
from distillknob.methods import METHODS

FROM_FILE = {"traces": "file", "traces_file": __file__}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"method": "sdpo", "divergence": "gold"}, "nothing to show for a sample"),
        ({"method": "sdpo", "divergence": "uld"}, "nothing to show for a sample"),
        ({"method": "opd_pg", "tokens": "divergence"}, "use tokens entropy"),
        ({"method": "opd_pg", "tokens": "tip"}, "use tokens entropy"),
        ({"method": "opd_pg", "tokens": "soft_or"}, "use tokens entropy"),
        ({"method": "avsd", "tokens": "divergence"}, "use tokens entropy"),
        ({"method": "opsd_clip", "tokens": "divergence"}, "use tokens entropy"),
        ({"method": "pi_distill", "tokens": "tip"}, "use tokens entropy"),
        ({"method": "top_k_opd_sg", "tokens": "soft_or"}, "use tokens entropy"),
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
        ({"method": "opd_pg", "teacher_weights": "itself"}, "set beside itself"),
        ({"method": "akl", "teacher_weights": "itself"}, "set beside itself"),
        ({"method": "gold", "teacher_weights": "itself"}, "set beside itself"),
        ({"method": "tsd_kd", "teacher_weights": "itself"}, "set beside itself"),
        ({"method": "relations", "teacher_weights": "itself"}, "set beside itself"),
        ({"method": "sft", "traces": "teacher_pairs"}, "one trace of each pair"),
        ({"context": "reference", **FROM_FILE}, "traces=file with context=reference: a file holds prompts and comp"),
        ({"context": "skill", "skills": "x", **FROM_FILE}, "no solutions or skills to show"),
        ({"context": "outcome_hint", "lmbda": 1.0, **FROM_FILE}, "traces=file with context=outcome_hint"),
        ({"method": "opd_pg_reward", **FROM_FILE}, "traces=file with a part that reads rewards"),
        ({"method": "avsd", "divergence": "hard_label"}, "lmbda=1: the loss hard_label learns from stored traces"),
        ({"method": "opsd_clip", "options": {"clip": "a"}}, "clip to 'a': it must be a number"),
        ({"method": "opsd_clip", "options": {"clip": math.inf}}, "clip to inf: it must be a finite number"),
        (
            {"method": "tt_opd", "divergence": "pi_distill", "teacher_weights": "itself", "context": "reference"},
            "tt_opd sets alpha to 4, which PiDistill has as well: it must lie between 0 and 1: set it by options",
        ),
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
        {"method": "opd_pg_reward", "teacher_weights": "itself"},  # whose reward says something
        {"method": "kd_power", "teacher_weights": "itself"},  # a softer self
        {"method": "avsd_vocabulary", "tokens": "divergence"},  # a KL, which is never below 0
        {"method": "tt_opd", "divergence": "pi_distill", "teacher_weights": "itself", "context": "reference"}
        | {"token_weights": "equal", "options": {"alpha": 0.5}},
    ],
)
def test_what_does_is_taken(values: dict[str, Any]) -> None:
    assert DistillConfig(**values).method == values["method"]


# What each reads at a token beside both models' logits.
READ = {"advantage": 3.0, "old_logprob": -1.0, "teacher_logprob": -0.7, "labelled": 1.0, "opener": 1.0, "uncertain": 1}
READ |= {"private": 1, "noise_seed": 7, "deleted": 1}


def rows_for(loss: TokenLoss, count: int = 500) -> TokenRows:
    """Tokens between two random models, and what the loss reads beside."""
    generator = torch.Generator().manual_seed(0)
    student, teacher, *more = (4 * torch.randn(count, 50, generator=generator) for _ in range(2 + len(loss.further)))
    columns = {column: torch.full((count,), value) for column, value in READ.items()}
    return TokenRows(student, teacher, torch.arange(count) % 50, columns, tuple(more))


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_over_tokens_is_below_0_somewhere_where_it_says_so_and_there_alone(name: str) -> None:
    loss = LOSSES[name](PartsAlone(method="gkd", divergence=name))
    if isinstance(loss, Divergence):
        loss = EditedDivergence(kind=loss.kind, beta=loss.beta, alpha=loss.alpha)
    if not isinstance(loss, TokenLoss) or not loss.asks_teacher:
        return
    assert bool((loss.of_tokens(rows_for(loss)) < -1e-5).any()) == loss.signed


@pytest.mark.parametrize("name", METHODS)
def test_an_option_at_its_bounds_is_refused_or_gives_numbers(name: str) -> None:
    for part in DistillConfig(method=name, **NEEDED.get(name, {})).made_parts:
        for option, field in options_of(part).items():
            for bound in (field.metadata["low"], field.metadata["high"], field.metadata["low"] + 1):
                try:
                    settings = DistillConfig(method=name, options={option: bound}, **NEEDED.get(name, {}))
                except BadInputError:
                    continue
                loss = settings.loss
                if isinstance(loss, TokenLoss) and loss.asks_teacher:
                    rows = rows_for(loss, 20)
                    edited = rows if loss.soft_target is None else loss.soft_target.edited(rows)
                    assert not loss.of_tokens(edited).isnan().any(), (option, bound)


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
