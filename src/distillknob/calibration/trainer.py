"""TRL's GRPOTrainer with one more reward that TRL's reward functions can't compute, since they don't see the policy:
the calibration reward (`rewards`).

Left out on purpose: a training loop.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather, gather_object
from trl import GRPOTrainer  # type: ignore[attr-defined]

from distillknob.calibration.advantage import (
    calibrated_advantages,
    group_centred,
    shuffled_in_groups,
    token_advantages,
)
from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.guard import UtilityGuard
from distillknob.calibration.hold import TaskHold
from distillknob.calibration.rewards.base import CalibrationReward, Rollout
from distillknob.calibration.rewards.choice import make_reward
from distillknob.errors import BadInputError, RunFailedError
from distillknob.models.chat import set_in_templates
from distillknob.models.load import load_model
from distillknob.models.scoring import Scorer
from distillknob.training.config import as_dict
from distillknob.training.entropy_band import EntropyBand, weights_in_band
from distillknob.training.grading import answers_of, completions_of, ended_in_time
from distillknob.training.passes import are_texts, order_is_free, samples_together, whole_rows
from distillknob.training.reading import distinct_rows, padded_to, read_rows
from distillknob.training.rollouts import PolicyTrainer
from distillknob.training.shared_prompts import pays, read_prompts_once, shared_prompts


class CalibrationTrainer(PolicyTrainer, GRPOTrainer):
    """GRPOTrainer whose advantage is z_G(task) + η · z_G(calibration reward).

    Takes what GRPOTrainer takes, and `target` (a `Scorer`, a folder, a hub id or zoo:NAME, or a list of them), of which
    the reward is made that the config names, or the `calibration_reward` itself; a `UtilityGuard` if the anchor is to
    adapt; and with `task_term="hold"` the original's mean scores by task (`baseline`), which are held. `reward_funcs`
    give the task reward, summed with their weights; a column `task` in the dataset lets tasks be watched apart. Raises
    BadInputError for a target that can't be used.
    """

    args: CalibrationConfig
    num_generations: int

    def __init__(
        self,
        *args: Any,
        target: Scorer | str | list[Scorer] | list[str] | None = None,
        calibration_reward: CalibrationReward | None = None,
        guard: UtilityGuard | None = None,
        baseline: Mapping[str, float] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        if self.args.eta and target is None:
            raise BadInputError(f"eta={self.args.eta} needs a calibration target: pass target=")
        named: list[Any] = target if isinstance(target, list) else [] if target is None else [target]
        self.targets: list[Scorer] = [
            load_model(one, device=self.args.target_device) if isinstance(one, str) else one for one in named
        ]
        frozen = [] if self.ref_model is None else [self.ref_model]
        for one in self.targets:
            if one.weights is not None:
                one.weights.requires_grad_(False)
                frozen.append(one.weights)
        self._make_ready(*frozen)
        for one in self.targets:  # TRL gives the values to the teacher's template alone
            values = as_dict(self.args.chat_template_kwargs)
            set_in_templates({"the target": one.tokenizer}, values, needed=False)
        if calibration_reward is None and self.targets:
            calibration_reward = make_reward(self.args, self.targets, self._tokenizer)
        self.calibration_reward = calibration_reward
        self.hold: TaskHold | None = None
        if self.args.task_term == "hold":
            if baseline is None:
                raise BadInputError("task_term='hold' holds the original's scores: pass baseline=, its mean by task")
            self.hold = TaskHold(baseline, self.args.utility_tolerance)
        self.guard = guard

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        if self.use_vllm:
            self.sampled_logprobs = None
            with self._as_it_is():
                return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        return self._rolled_out(prompt_ids), None

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: list[list[int]]
    ) -> torch.Tensor:
        """Rewards of all processes [B, F], kept together with this process's texts for the advantage."""
        ended = [ids[-1] in self.eos_token_ids for ids in completion_ids_list]
        in_time = ended_in_time(inputs, completion_ids_list, ended)
        answers = answers_of(self._tokenizer, prompts, completion_ids_list)
        inputs = [
            {**row, "finished": done, "answer_text": answer}
            for row, done, answer in zip(inputs, in_time, answers, strict=True)
        ]
        rewards_BF: torch.Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._rollout = {
            "rewards": rewards_BF,
            "in_time": in_time,
            "prompts": prompts,
            "ids": [list(ids) for ids in completion_ids_list],
            "finished": ended,
            "tasks": [row.get("task", "task") for row in inputs],
        }
        return rewards_BF

    def reward_state(self) -> dict[str, Any]:
        """What a resumed run has to know of the reward and of the hold on the task, as JSON values."""
        reward, hold = self.calibration_reward, self.hold
        return {"reward": reward and reward.state_dict(), "hold": hold and hold.state_dict()}

    def load_reward_state(self, state: Mapping[str, Any]) -> None:
        """Take over a state that `reward_state` returned."""
        if self.calibration_reward is not None:
            self.calibration_reward.load_state_dict(state["reward"])
        if self.hold is not None:
            self.hold.load_state_dict(state["hold"])

    def rewards_of(self, rows: Sequence[Mapping[str, Any]], completion_ids: Sequence[Sequence[int]]) -> list[float]:
        """What the reward functions together give to answers to rows of the dataset, as in training: NaN where none of
        them gives anything. Every process makes this same call, and grades all of them."""
        rewards: list[float] = []
        size = self.args.per_device_train_batch_size
        for start in range(0, len(rows), size):
            part = [dict(row) for row in rows[start : start + size]]
            ids = [list(row) for row in completion_ids[start : start + size]]
            prompts = [row["prompt"] for row in part]
            completions = completions_of(self._tokenizer, prompts, ids)
            rewards_BF = self._calculate_rewards(part, prompts, completions, ids)[: len(part)]
            summed_B = (rewards_BF * self.reward_weights.to(rewards_BF.device)).nansum(dim=1)
            rewards += summed_B.masked_fill(rewards_BF.isnan().all(dim=1), math.nan).tolist()
        for pending in (self._pending_extra_logs, self._pending_metrics):  # which are those of training steps
            pending.clear()
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        if self.guard is not None:
            self.beta = self.guard.beta
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.model is None or not self.model.training:
            return batch
        rollout = self._rollout
        mask_bT = batch["completion_mask"]
        task_B = (rollout["rewards"] * self.reward_weights.to(rollout["rewards"].device)).nansum(dim=1)
        in_time_B = gather(torch.tensor(rollout["in_time"], device=task_B.device))
        scored_B = ~rollout["rewards"].isnan().all(dim=1)  # a reward function may give none, as TRL knows
        right_B = scored_B & (task_B >= self.args.right_at) & in_time_B
        tasks = gather_object(rollout["tasks"])
        scores = self._scores_by_task(task_B, scored_B, tasks)
        start = self.accelerator.process_index * len(mask_bT)
        values = self._calibration_values(batch, right_B[start : start + len(mask_bT)])
        by_token = values.ndim == 2
        values_B = gather(values.sum(1) if by_token else values)
        self._check_values(values_B)
        of_advantage: dict[str, Any] = {
            "eta": self.args.eta,
            "group_size": self.num_generations,
            "right_B": right_B if self.args.gate else None,
            "scored_B": scored_B,
            "clip": self.args.calibration_clip,
            "scale": self.args.calibration_scale,
        }
        metrics = self._metrics["train"]
        if self.hold is not None:
            self.hold.observe(scores)
            of_advantage["task_weight_B"] = task_B.new_tensor([self.hold.multiplier[name] for name in tasks])
            for name, multiplier in self.hold.multiplier.items():
                metrics[f"task_multiplier/{name}"].append(multiplier)
        if by_token:
            values_BT, mask_BT = self._everywhere(values), self._everywhere(mask_bT).bool()
            advantages = token_advantages(task_B, values_BT, mask_BT, **of_advantage)
        else:
            dealt_B = values_B
            if self.args.shuffle_calibration:
                seed = f"{self.args.seed}/{self.state.global_step}"
                dealt_B = shuffled_in_groups(values_B, self.num_generations, of_advantage["right_B"], seed)
            advantages = calibrated_advantages(task_B, dealt_B, **of_advantage)
        if self.args.anchor == "reward":
            apart_bT = (self._policy_logprobs(batch) - batch.pop("ref_per_token_logps")) * mask_bT
            metrics["kl"].append((gather(apart_bT.sum()).sum() / gather(mask_bT.sum()).sum().clamp(min=1)).item())
            if by_token:
                advantages = advantages - self.beta * self._everywhere(apart_bT)
            else:
                tokens_b = mask_bT.sum(1).clamp(min=1) if self.args.reward == "sequence_mean" else 1
                apart_B = gather(apart_bT.sum(1) / tokens_b)
                advantages = advantages - self.beta * group_centred(apart_B, self.num_generations)
        if self.args.advantage == "trl":
            chosen = advantages[self._everywhere(mask_bT).bool()] if by_token else advantages
            advantages = (advantages - chosen.mean()) / (chosen.std() + 1e-4)
        if (band := self.args.band) is not None:
            advantages = self._in_band(advantages, batch, band)
        here = advantages[start : start + len(mask_bT)]
        batch["advantages"] = here[:, : mask_bT.size(1)] if by_token else here

        metrics["calibration/log_ratio"].append(values_B.mean().item())
        metrics["calibration/right"].append(right_B.float().mean().item())
        metrics["calibration/beta"].append(self.beta)
        for name, of_task in scores.items():
            metrics[f"task_score/{name}"].append(sum(of_task) / len(of_task))
        if self.guard is not None:
            self.guard.observe(scores, values_B.mean().item())
        return batch

    def _in_band(self, advantages: torch.Tensor, batch: dict[str, Any], band: EntropyBand) -> torch.Tensor:
        """Advantages of all processes, [B] or [B, T], without the samples that drive the policy's entropy out of the
        band. A sample's own is for this the mean over its tokens."""
        entropy, progress = self._mean_entropy(batch), self.state.global_step / max(1, self.state.max_steps)
        of_sample_B = advantages
        if advantages.ndim == 2:
            mask_BT = self._everywhere(batch["completion_mask"])
            of_sample_B = (advantages * mask_BT).sum(1) / mask_BT.sum(1).clamp(min=1)
        weight_B = weights_in_band(of_sample_B, entropy, band.at(progress), self.num_generations)
        self._metrics["train"]["entropy_band/entropy"].append(entropy)
        self._metrics["train"]["entropy_band/left_out"].append((weight_B == 0).float().mean().item())
        return advantages * (weight_B if advantages.ndim == 1 else weight_B[:, None])

    @torch.no_grad()
    def _mean_entropy(self, batch: dict[str, Any]) -> float:
        """The policy's entropy in nats, the mean over the tokens of all processes' samples."""
        mask_bT = batch["completion_mask"]
        _, entropy_bT, _ = self._get_per_token_logps_and_entropies(
            self.model,
            *whole_rows(batch),
            mask_bT.size(1),
            batch_size=self.args.per_device_train_batch_size,
            compute_entropy=True,
        )
        if entropy_bT is None:
            raise ValueError("the pass was asked for entropies")
        total = gather((entropy_bT * mask_bT).double().sum()).sum()
        return float(total / gather(mask_bT.sum()).sum().clamp(min=1))

    def _scores_by_task(
        self, task_B: torch.Tensor, scored_B: torch.Tensor, tasks: Sequence[str]
    ) -> dict[str, list[float]]:
        """Each prompt's mean score, by task; prompts without any are left out."""
        scores: dict[str, list[float]] = defaultdict(list)
        scored_PG = scored_B.view(-1, self.num_generations)
        score_P = (task_B * scored_B).view(-1, self.num_generations).sum(1) / scored_PG.sum(1)
        prompts = zip(tasks[:: self.num_generations], score_P.tolist(), scored_PG.any(1).tolist(), strict=True)
        for name, score, counts in prompts:
            if counts:
                scores[name].append(score)
        return scores

    def _check_values(self, values_B: torch.Tensor) -> None:
        """Raise RunFailedError where the target gave NaN or an infinite log-probability, on every process alike: the
        advantages of its group would be NaN, and the weights after them. A policy without numbers is the guard's."""
        broken = int((~values_B.isfinite()).sum())
        if broken and bool(gather(torch.tensor([self._policy_is_finite], device=values_B.device)).all()):
            names = ", ".join(repr(one.name) for one in self.targets)
            raise RunFailedError(
                f"step {self.state.global_step}: the calibration reward with target {names} is NaN or infinite "
                f"for {broken} of {len(values_B)} samples, and no advantage follows from it: the target gives a "
                "token that was drawn the probability 0, or no number. Take a target that gives every token a "
                "probability (where one is served, without top-k, top-p or masked tokens); the checkpoints before this "
                "step are kept"
            )

    def _everywhere(self, values_bT: torch.Tensor) -> torch.Tensor:
        """The rows of all processes [B, T], padded with zeros to the longest."""
        values_BT: torch.Tensor = gather(self.accelerator.pad_across_processes(values_bT.contiguous(), dim=1))
        return values_BT

    @torch.no_grad()
    def _policy_logprobs(self, batch: dict[str, Any]) -> torch.Tensor:
        """log π_θ of each token of this process's samples [b, T], detached; formed once a batch, unless the sampler has
        told them.

        An anchor in the reward compares them with the original's, which come from a pass: from another one its first
        step would train on the rounding, which Adam makes as large as any other gradient."""
        mask_bT = batch["completion_mask"]
        drawn = self.args.anchor == "loss" and "tool_mask" not in batch  # a tool's own words aren't drawn
        if drawn and self.sampled_logprobs is not None:
            return padded_to(self.sampled_logprobs.to(mask_bT.device), mask_bT.size(1))
        logps: torch.Tensor | None = batch.get("old_per_token_logps", self._rollout.get("policy"))
        if logps is None:
            logps, _, _ = self._get_per_token_logps_and_entropies(
                self.model,
                *whole_rows(batch),
                mask_bT.size(1),
                batch_size=self.args.per_device_train_batch_size,
            )
            self._rollout["policy"] = logps
        return logps

    @torch.no_grad()
    def _calibration_values(self, batch: dict[str, Any], right_b: torch.Tensor) -> torch.Tensor:
        """What the calibration reward gives this process's samples, [b], or each of their tokens, [b, T]."""
        rollout, mask_bT = self._rollout, batch["completion_mask"]
        policy_bT = self._policy_logprobs(batch) * mask_bT
        self._policy_is_finite = bool(policy_bT.isfinite().all())
        reward = self.calibration_reward
        if reward is None:
            return torch.zeros_like(policy_bT[:, 0])
        answers = Rollout(
            rollout["prompts"], rollout["ids"], rollout["finished"], right_b.tolist(), self.num_generations
        )
        reward.before_step(self.state.global_step, answers)
        original_bT = self._original_logprobs(batch) if reward.needs_original else None
        return reward.values(answers, policy_bT, mask_bT, original_bT)

    def _original_logprobs(self, batch: dict[str, Any]) -> torch.Tensor:
        """log π₀ of each token of this process's samples [b, T]."""
        logps: torch.Tensor | None = batch.get("ref_per_token_logps")
        if logps is None:
            raise BadInputError(
                f"reward={self.args.reward!r} asks what the original gave each token, and with beta=0 there is none "
                "beside the policy: set beta above 0 (1e-6 anchors nothing)"
            )
        return logps * batch["completion_mask"]

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """TRL's, whose passes hold the samples of a prompt together where it is then read once for them."""
        before: Any = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        passes: Any = self._buffered_inputs
        alone = self.accelerator.num_processes == 1
        if passes is before or not (alone and order_is_free(self.args) and are_texts(passes[0])):
            return inputs
        dealt = samples_together(passes)
        if not pays(self.model, shared_prompts(*whole_rows(dealt[0]), dealt[0]["completion_ids"].size(1))):
            return inputs
        this: Any = self
        this._buffered_inputs = dealt
        return dealt[self._step % len(dealt)]

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **of_images: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """TRL's, which reads a repeated row once (its gradient is the sum of its copies'), and where it pays a repeated
        prompt. Samples of one prompt repeat each other often, the surer the policy the more. With several processes
        each of TRL's batches is one forward pass on each, as FSDP and ZeRO need it, whatever repeats there."""
        score = super()._get_per_token_logps_and_entropies
        if compute_aux_loss or any(value is not None for value in of_images.values()):
            # How experts are balanced depends on the whole batch, and images aren't dealt out by row.
            return score(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size=batch_size,
                compute_entropy=compute_entropy,
                compute_aux_loss=compute_aux_loss,
                **of_images,
            )

        def read(ids_UT: torch.Tensor, mask_UT: torch.Tensor, width: int) -> torch.Tensor:
            logps_UC, entropy_UC, _ = score(model, ids_UT, mask_UT, width, compute_entropy=compute_entropy)
            return torch.stack([logps_UC] if entropy_UC is None else [logps_UC, entropy_UC], dim=2)

        alone, chunks = self.accelerator.num_processes == 1, []
        size = batch_size or len(input_ids)
        for ids_bT, mask_bT in zip(input_ids.split(size), attention_mask.split(size), strict=True):
            first_U, which_b = distinct_rows(ids_bT, mask_bT)
            ids_UT, mask_UT = ids_bT[first_U], mask_bT[first_U]
            values_UC2 = read_prompts_once(model, read, ids_UT, mask_UT, logits_to_keep) if alone else None
            if values_UC2 is None:
                values_UC2 = read_rows(read, ids_UT, mask_UT, logits_to_keep, alone=alone)
            chunks.append(values_UC2[which_b])
        logps_BC, *entropies = torch.cat(chunks).unbind(2)
        return logps_BC, entropies[0] if compute_entropy else None, None

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        if self.args.anchor == "loss":
            return super()._compute_loss(model, inputs)
        beta, self.beta = self.beta, 0.0  # which the reward holds already
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self.beta = beta
