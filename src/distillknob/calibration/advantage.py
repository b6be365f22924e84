"""The knob's arithmetic: from task rewards and log-ratios to advantages. Pure tensor functions.

    A_i = z_G(task)_i + η · z_G(cal)_i,     cal_i = log π_θ(y_i|x) − log π_C(y_i|x) in the paper

(reconstructed objective of arXiv 2604.18963; docs/explanation/objective.md tells what is known). z_G is the z-score
within the group of samples of one prompt. A is left unscaled: TRL's `normalize_then_sum` whitens A over the batch,
which cancels |η| as soon as task rewards tie, and the knob becomes a switch.
"""

from __future__ import annotations

import random

import torch

from distillknob.training.advantages import Scale, group_z_score


def calibrated_advantages(
    task_B: torch.Tensor,
    calibration_B: torch.Tensor,
    eta: float,
    group_size: int,
    *,
    right_B: torch.Tensor | None = None,
    scored_B: torch.Tensor | None = None,
    clip: float = 3.0,
    scale: Scale = "group",
    task_weight_B: torch.Tensor | None = None,
) -> torch.Tensor:
    """Advantages [B]: w · z_G(task) + η · clip(z_G(cal)), unscaled, with w = `task_weight_B` or 1.

    `right_B` (bool [B]) gates the calibration reward: it is z-scored among the right samples of a group and given to
    them alone, so that a wrong answer never gains by being close to, or far from, the target. Without the gate, a
    group that is wrong throughout trains on calibration alone, and η > 0 soon drives the policy into gibberish.
    Samples outside of `scored_B` (bool [B]) have no task reward: their advantage is 0, and they count in no mean.
    `clip` bounds |z_G(cal)|: a group of 8 can reach 2.5, a larger one has no bound of its own.
    """
    calibration_B = group_z_score(calibration_B, group_size, _both(right_B, scored_B), scale).clamp(-clip, clip)
    return _task_term(task_B, group_size, scored_B, task_weight_B) + eta * calibration_B


def _task_term(
    task_B: torch.Tensor, group_size: int, scored_B: torch.Tensor | None, weight_B: torch.Tensor | None
) -> torch.Tensor:
    scored = group_z_score(task_B, group_size, scored_B)
    return scored if weight_B is None else weight_B * scored


def _both(a_B: torch.Tensor | None, b_B: torch.Tensor | None) -> torch.Tensor | None:
    return b_B if a_B is None else a_B if b_B is None else a_B & b_B


def token_advantages(
    task_B: torch.Tensor,
    calibration_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    eta: float,
    group_size: int,
    *,
    right_B: torch.Tensor | None = None,
    scored_B: torch.Tensor | None = None,
    clip: float = 3.0,
    scale: Scale = "group",
    task_weight_B: torch.Tensor | None = None,
) -> torch.Tensor:
    """Advantages [B, T]: w · z_G(task) + η · clip(z(cal)), with a calibration reward of each token's own.

    The z-score is over all tokens of a group's samples (those in `right_B` and in `mask_BT`, bool). Tokens outside of
    the mask get z_G(task) alone, which no loss reads. `scored_B`, `task_weight_B`: as in `calibrated_advantages`.
    """
    chosen_B = _both(right_B, scored_B)
    counted_BT = mask_BT if chosen_B is None else mask_BT & chosen_B[:, None]
    width = calibration_BT.size(1)
    scored = group_z_score(calibration_BT.reshape(-1), group_size * width, counted_BT.reshape(-1), scale)
    task_term_B = _task_term(task_B, group_size, scored_B, task_weight_B)
    return task_term_B[:, None] + eta * scored.view(-1, width).clamp(-clip, clip)


def group_centred(values_B: torch.Tensor, group_size: int) -> torch.Tensor:
    """Values [B] less the mean of the others of their group: a reward's baseline, with its unit kept. With the sample
    itself in the mean, the gradient would be 1 − 1/G of what the unit says."""
    values_PG = values_B.view(-1, group_size)
    return (values_PG - values_PG.mean(1, keepdim=True)).view(-1) * group_size / (group_size - 1)


def shuffled_in_groups(
    values_B: torch.Tensor, group_size: int, right_B: torch.Tensor | None, seed: str
) -> torch.Tensor:
    """Values [B] dealt out anew among the samples of each group (those in `right_B`; the others keep theirs).

    The same for the same seed, so that every process deals alike.
    """
    rng, found_B = random.Random(seed), values_B.clone()
    for start in range(0, len(values_B), group_size):
        places = [i for i in range(start, start + group_size) if right_B is None or bool(right_B[i])]
        dealt = rng.sample(places, len(places))
        found_B[places] = values_B[dealt]
    return found_B
