"""On-policy distillation as a policy gradient: by hand, against the reverse KL, with rewards, and within a band."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, tensor

from distilling import Kept, Rewarded, config
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses.base import Rollouts
from distillknob.distillation.losses.policy_gradient import (
    BandedPolicyGradient,
    RewardedPolicyGradient,
    policy_gradient,
)
from distillknob.distillation.stage import distill
from distillknob.divergences.dense import divergence
from distillknob.errors import BadInputError
from distillknob.models.load import load_model
from distillknob.training.advantages import group_z_score
from distillknob.training.entropy_band import weights_in_band
from pairs import Pair

STUDENT, TEACHER = tensor([0.5, 0.5]), tensor([0.9, 0.1])


def enumerated(advantage_V: Tensor, student_V: Tensor = STUDENT) -> tuple[float, Tensor]:
    """The loss of every token as often as the student draws it, and its gradient to the logits."""
    logits = student_V.log().requires_grad_()
    tokens, old = torch.arange(len(student_V)), student_V.log()
    values = policy_gradient(logits.expand(len(student_V), -1), tokens, advantage_V, old)
    value = (student_V * values).sum()
    value.backward()
    assert logits.grad is not None
    return float(value.detach()), logits.grad


def test_over_all_tokens_it_is_the_reverse_kl_with_its_gradient() -> None:
    value, gradient = enumerated(TEACHER.log() - STUDENT.log())
    assert value == pytest.approx(0.51083, abs=1e-5)
    assert (-gradient).tolist() == pytest.approx([0.54931, -0.54931], abs=1e-5)
    student, teacher = tensor([0.2, 0.5, 0.3]), tensor([0.6, 0.1, 0.3])
    value, gradient = enumerated(teacher.log() - student.log(), student)
    logits = student.log()[None].requires_grad_()
    kl = divergence(logits, teacher.log()[None], "reverse_kl").sum()
    kl.backward()
    assert logits.grad is not None
    assert value == pytest.approx(float(kl.detach()), abs=1e-6) and torch.allclose(gradient, logits.grad[0], atol=1e-6)


def test_a_state_s_whole_divergence_as_the_advantage_would_teach_nothing() -> None:
    kl = (STUDENT * (STUDENT.log() - TEACHER.log())).sum()
    assert enumerated(-kl.expand(2))[1].abs().max() < 1e-7
    assert enumerated(TEACHER.log() - STUDENT.log())[1].abs().max() > 0.5  # ours is of the token


def test_nothing_is_taught_where_both_models_are_one() -> None:
    value, gradient = enumerated(torch.zeros(2))
    assert value == 0 and gradient.tolist() == [0.0, 0.0]


def rollouts(rewards: list[float], mask: Tensor, *, group: int, entropy: float = 0.6, progress: float = 0.0) -> Any:
    """What a loss's advantage reads of a step, with these rewards and this mean entropy."""
    return Rollouts(
        rows=[{}] * len(rewards),
        batch={"completion_mask": mask},
        student=None,  # type: ignore[arg-type]  # whose entropy stands below
        teacher=None,
        ends=[],
        measured=lambda of_view: torch.full([int(mask.sum())], entropy),
        graded=lambda: tensor(rewards),
        everywhere=lambda values: values,
        num_generations=group,
        progress=progress,
    )


def test_the_reward_s_z_score_comes_beside_the_log_ratio() -> None:
    """Rewards 1, 0 and 0.5 have the mean ½ and the deviation ½, so that z is 1, −1 and 0."""
    ratio = tensor([[0.3, -0.1], [0.0, 2.0], [1.0, 0.0]])  # log p = −0.2 and log q = −0.5 at the first token
    step = rollouts([1.0, 0.0, 0.5], torch.ones(3, 2), group=3)
    for alpha, wanted in ((1.0, [1.3, 0.9, -1.0, 1.0, 1.0, 0.0]), (0.5, [1.15, 0.95, -1.0, 0.0, 0.5, 0.0])):
        loss = RewardedPolicyGradient() if alpha == 1.0 else RewardedPolicyGradient(alpha=alpha)
        assert loss.advantage(ratio, step).flatten().tolist() == pytest.approx(wanted, abs=1e-3)


def test_samples_out_of_the_band_have_no_advantage_and_the_others_share_their_weight() -> None:
    mask, rewards = torch.ones(4, 3), [1.0, 0.0, 1.0, 0.0]
    loss, ratio = BandedPolicyGradient(), torch.zeros(4, 3)
    inside = loss.advantage(ratio, rollouts(rewards, mask, group=4, entropy=0.65))
    assert torch.equal(inside, RewardedPolicyGradient().advantage(ratio, rollouts(rewards, mask, group=4)))
    above = loss.advantage(ratio, rollouts(rewards, mask, group=4, entropy=0.9))
    assert above[1].tolist() == above[3].tolist() == [0.0] * 3 and torch.allclose(above[0], 2 * inside[0])
    below = loss.advantage(ratio, rollouts(rewards, mask, group=4, entropy=0.1))
    assert below[0].tolist() == [0.0] * 3 and torch.allclose(below[1], 2 * inside[1])
    late = loss.advantage(ratio, rollouts(rewards, mask, group=4, entropy=0.65, progress=1.0))
    assert torch.equal(late, above)  # the band has moved down


def test_padding_has_no_part_in_a_sample_s_mean_advantage() -> None:
    mask, ratio = tensor([[1, 1, 0], [1, 0, 0]]), tensor([[0.5, 0.5, -99.0], [-0.5, 99.0, 99.0]])
    tied = rollouts([1.0, 1.0], mask, group=2, entropy=0.9)  # so that the log-ratio alone decides
    advantage = BandedPolicyGradient().advantage(ratio, tied)
    assert advantage[0, :2].tolist() == [1.0, 1.0] and advantage[1, 0] == 0


def logprobs(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """log-probability of each token of the completions, and the entropy there, [B, C]."""
    ids, mask = (torch.cat([batch[f"prompt_{x}"], batch[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
    width = batch["completion_ids"].size(1)
    with torch.no_grad():
        logits = model.model(input_ids=ids, attention_mask=mask).logits[:, -width - 1 : -1]
    chosen = logits.log_softmax(-1).gather(-1, batch["completion_ids"][..., None])[..., 0]
    return chosen, torch.distributions.Categorical(logits=logits).entropy()


def test_the_advantage_is_the_log_ratio_before_the_student_moves(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    settings = config(tiny_pair, "opd_pg", per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=1)
    distill(settings, tmp_path / "run", trainer_class=Kept)
    teacher, student = load_model(tiny_pair.teacher), load_model(tiny_pair.student)
    assert len(batches) == 2
    for batch in batches:
        here = batch["completion_mask"].bool()
        wanted = (logprobs(teacher, batch)[0] - logprobs(student, batch)[0])[here]
        assert torch.allclose(batch["advantage"][here], wanted, atol=1e-4) and wanted.abs().max() > 0.01
        assert batch["loss"] == pytest.approx(-float(wanted.sum()) / batch["items"], rel=1e-3, abs=1e-4)


def test_rewards_are_compared_within_the_samples_of_a_prompt(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    settings = config(tiny_pair, "opd_pg_reward", per_device_train_batch_size=8, max_steps=1)
    distill(settings, tmp_path / "run", trainer_class=Rewarded)
    (batch,) = batches
    assert len(batch["prompt_ids"].unique(dim=0)) == 1
    ratio = logprobs(load_model(tiny_pair.teacher), batch)[0] - batch["old_logprob"]
    z = group_z_score((torch.arange(8) % 2).float(), 8)
    rest = torch.where(batch["completion_mask"].bool(), batch["advantage"] - ratio, z.max())
    assert torch.allclose(rest.min(1).values.sort().values, z.sort().values, atol=1e-4)  # rows are shuffled


def test_the_band_leaves_samples_out_in_a_training(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    """A fresh student's entropy lies far above the band: samples that are pushed away are left out."""
    settings = config(tiny_pair, "entrocraft", per_device_train_batch_size=8, max_steps=1, options={"alpha": 0.0})
    distill(settings, tmp_path / "run", trainer_class=Rewarded)
    (batch,) = batches
    here = batch["completion_mask"].bool()
    entropy = float(logprobs(load_model(tiny_pair.student), batch)[1][here].mean())
    assert entropy > 0.7
    z = group_z_score((torch.arange(8) % 2).float(), 8)
    wanted = weights_in_band(z, entropy, (0.6, 0.7), 8) * z
    assert torch.allclose(batch["advantage"][:, 0].sort().values, wanted.sort().values, atol=1e-5)
    assert sorted(wanted.tolist())[3] == 0 < sorted(wanted.tolist())[4]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"method": "opd_pg", "lmbda": 0.5, "traces": "gold"}, "a policy gradient is taken on the student's own"),
        ({"method": "opd_pg_reward", "num_generations": 1}, "one alone has no advantage"),
        ({"method": "opd_pg", "temperature": 0.5}, "compares no distributions at a temperature"),
        ({"method": "opd_pg_reward", "options": {"alpha": -1.0}}, "alpha to -1"),
        ({"method": "entrocraft", "options": {"entropy_low_start": 0.9}}, "lower bound"),
        ({"method": "entrocraft", "options": {"entropy_cosine": 0.5}}, "half a cosine"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        DistillConfig(**values)
