"""TRL's GRPOTrainer with one more reward that TRL's reward functions can't compute, since they don't see the policy:
the sequence log-ratio log π_θ(y|x) − log π_C(y|x), each model scoring the text with its own tokenizer.

Left out on purpose: a training loop.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather, gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState
from trl import GRPOTrainer  # type: ignore[attr-defined]

from distillknob.calibration.advantage import (
    calibrated_advantages,
    group_centred,
    shuffled_in_groups,
    token_advantages,
)
from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.guard import UtilityGuard
from distillknob.calibration.rewards import answers_of, completions_of, ended_in_time
from distillknob.errors import BadInputError, RunFailedError
from distillknob.models.chat import set_in_templates
from distillknob.models.load import load_model
from distillknob.models.same_text import answers_logprob, as_read, one_vocabulary
from distillknob.models.scoring import Scorer, token_logprobs
from distillknob.training.config import as_dict
from distillknob.training.reading import distinct_rows, padded_to, read_rows
from distillknob.training.rollouts import PolicyTrainer


class CalibrationTrainer(PolicyTrainer, GRPOTrainer):
    """GRPOTrainer whose advantage is z_G(task) + η · z_G(log-ratio to `target`).

    Takes what GRPOTrainer takes, and `target` (a `Scorer`, a folder, a hub id or zoo:NAME), and a
    `UtilityGuard` if the anchor is to adapt. `reward_funcs` give the task reward, summed with their weights; a column
    `task` in the dataset lets the guard watch tasks apart. Raises BadInputError for a target that can't be used.
    """

    args: CalibrationConfig
    num_generations: int

    def __init__(
        self,
        *args: Any,
        target: Scorer | str | None = None,
        guard: UtilityGuard | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        if self.args.eta and target is None:
            raise BadInputError(f"eta={self.args.eta} needs a calibration target: pass target=")
        self.target = load_model(target, device=self.args.target_device) if isinstance(target, str) else target
        other = self.target is not None and not one_vocabulary(self.target.tokenizer, self._tokenizer)
        if self.args.log_ratio == "token" and other:
            raise BadInputError(
                "log_ratio='token' compares token by token, but the target has another tokenizer than the teacher: "
                "use log_ratio sum or mean, which compare whole answers"
            )
        frozen = [] if self.ref_model is None else [self.ref_model]
        if self.target is not None and self.target.weights is not None:
            self.target.weights.requires_grad_(False)
            frozen.append(self.target.weights)
        self._make_ready(*frozen)
        if self.target is not None:  # TRL gives the values to the teacher's template alone
            values = as_dict(self.args.chat_template_kwargs)
            set_in_templates({"the target": self.target.tokenizer}, values, needed=False)
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
        log_ratio = self._log_ratio(batch, rollout)
        by_token = log_ratio.ndim == 2
        log_ratio_B = gather(log_ratio.sum(1) if by_token else log_ratio)
        self._check_target(gather(rollout["no_number"]))
        task_B = (rollout["rewards"] * self.reward_weights.to(log_ratio_B.device)).nansum(dim=1)
        in_time_B = gather(torch.tensor(rollout["in_time"], device=task_B.device))
        scored_B = ~rollout["rewards"].isnan().all(dim=1)  # a reward function may give none, as TRL knows
        right_B = scored_B & (task_B >= self.args.right_at) & in_time_B
        gate_B = right_B if self.args.gate else None
        eta, group, clip = self.args.eta, self.num_generations, self.args.calibration_clip
        if by_token:
            values_BT, mask_BT = self._everywhere(log_ratio), self._everywhere(mask_bT).bool()
            advantages = token_advantages(
                task_B, values_BT, mask_BT, eta, group, right_B=gate_B, scored_B=scored_B, clip=clip
            )
        else:
            dealt_B = log_ratio_B
            if self.args.shuffle_calibration:
                seed = f"{self.args.seed}/{self.state.global_step}"
                dealt_B = shuffled_in_groups(log_ratio_B, group, gate_B, seed)
            advantages = calibrated_advantages(
                task_B, dealt_B, eta, group, right_B=gate_B, scored_B=scored_B, clip=clip
            )
        metrics = self._metrics["train"]
        if self.args.anchor == "reward":
            apart_bT = (self._policy_logprobs(batch) - batch.pop("ref_per_token_logps")) * mask_bT
            metrics["kl"].append((gather(apart_bT.sum()).sum() / gather(mask_bT.sum()).sum().clamp(min=1)).item())
            if by_token:
                advantages = advantages - self.beta * self._everywhere(apart_bT)
            else:
                tokens_b = mask_bT.sum(1).clamp(min=1) if self.args.log_ratio == "mean" else 1
                apart_B = gather(apart_bT.sum(1) / tokens_b)
                advantages = advantages - self.beta * group_centred(apart_B, self.num_generations)
        if self.args.advantage == "trl":
            chosen = advantages[self._everywhere(mask_bT).bool()] if by_token else advantages
            advantages = (advantages - chosen.mean()) / (chosen.std() + 1e-4)
        start = self.accelerator.process_index * len(log_ratio)
        here = advantages[start : start + len(log_ratio)]
        batch["advantages"] = here[:, : mask_bT.size(1)] if by_token else here

        metrics["calibration/log_ratio"].append(log_ratio_B.mean().item())
        metrics["calibration/right"].append(right_B.float().mean().item())
        metrics["calibration/beta"].append(self.beta)
        scores: dict[str, list[float]] = defaultdict(list)
        task_of_prompt = gather_object(rollout["tasks"])[:: self.num_generations]
        scored_PG = scored_B.view(-1, self.num_generations)
        score_of_prompt = (task_B * scored_B).view(-1, self.num_generations).sum(1) / scored_PG.sum(1)
        for name, score, counts in zip(
            task_of_prompt, score_of_prompt.tolist(), scored_PG.any(1).tolist(), strict=True
        ):
            if counts:
                scores[name].append(score)
        for name, values in scores.items():
            metrics[f"task_score/{name}"].append(sum(values) / len(values))
        if self.guard is not None:
            self.guard.observe(scores, log_ratio_B.mean().item())
        return batch

    def _check_target(self, no_number_B: torch.Tensor) -> None:
        """Raise RunFailedError where the target gave NaN or an infinite log-probability, on every process alike: the
        advantages of its group would be NaN, and the weights after them. A policy without numbers is the guard's."""
        broken = int(no_number_B.sum())
        if broken:
            assert self.target is not None
            raise RunFailedError(
                f"step {self.state.global_step}: the log-ratio to the target {self.target.name!r} is NaN or infinite "
                f"for {broken} of {len(no_number_B)} samples, and no advantage follows from it: the target gives a "
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
                torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
                torch.cat([batch["prompt_mask"], mask_bT], dim=1),
                mask_bT.size(1),
                batch_size=self.args.per_device_train_batch_size,
            )
            self._rollout["policy"] = logps
        return logps

    @torch.no_grad()
    def _log_ratio(self, batch: dict[str, Any], rollout: dict[str, Any]) -> torch.Tensor:
        """log π_θ(y|x) − log π_C(y|x) in nats for this process's samples, detached: [b], summed over each model's own
        tokens or their mean; for `log_ratio` token of each token, [b, T], 0 beyond an answer's end. Beside it, which
        samples the target has no number for: `rollout["no_number"]`, bool [b]."""
        mask_bT = batch["completion_mask"]
        rollout["no_number"] = torch.zeros(len(mask_bT), dtype=torch.bool, device=mask_bT.device)
        policy_bT = self._policy_logprobs(batch) * mask_bT
        if self.args.log_ratio == "token":
            target_bT = torch.zeros_like(policy_bT) if self.target is None else self._target_logprobs(policy_bT)
            rollout["no_number"] = ~target_bT.isfinite().all(1)
            return policy_bT - target_bT
        policy_b = policy_bT.sum(1)
        if self.args.log_ratio == "mean":
            policy_b = policy_b / mask_bT.sum(1).clamp(min=1)
        if self.target is None:
            return torch.zeros_like(policy_b)
        target_b = answers_logprob(
            self.target,
            rollout["prompts"],
            rollout["ids"],
            rollout["finished"],
            self._tokenizer,
            reduction=self.args.log_ratio,
        )
        target_b = target_b.to(policy_b.device)
        rollout["no_number"] = ~target_b.isfinite()
        return policy_b - target_b

    def _target_logprobs(self, like_bT: torch.Tensor) -> torch.Tensor:
        """log π_C of the very tokens that were sampled (and of its own end for the policy's), [b, T]; 0 beyond each
        answer's end."""
        assert self.target is not None
        rollout = self._rollout
        ids = as_read(rollout["ids"], rollout["finished"], self._tokenizer, self.target)
        rows = token_logprobs(self.target, rollout["prompts"], ids)
        logprob_bT = torch.zeros_like(like_bT)
        for place, row in enumerate(rows):
            logprob_bT[place, : len(row)] = row.to(logprob_bT)
        return logprob_bT

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
        """TRL's, which reads a repeated row once: its gradient is the sum of its copies'. Samples of one prompt repeat
        each other often, the surer the policy the more. With several processes each of TRL's batches is one forward
        pass on each, as FSDP and ZeRO need it, whatever repeats there."""
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
            values_UC2 = read_rows(read, ids_bT[first_U], mask_bT[first_U], logits_to_keep, alone=alone)
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


class GuardCallback(TrainerCallback):
    """Lets the guard judge every few steps: a good window is saved as a checkpoint, a lost one ends the training.

    The guard's state is written beside each checkpoint, so that a resumed run goes on with the same β and strikes.
    """

    def __init__(self, guard: UtilityGuard):
        self.guard = guard

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.guard.looks = math.ceil(state.max_steps / self.guard.steps)

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        watched = {k: float((logs or {})[k]) for k in ("loss", "grad_norm", "kl") if (logs or {}).get(k) is not None}
        if not self.guard.check_finite(state.global_step, **watched):
            control.should_training_stop, control.should_save = True, False

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.guard.steps == 0 or state.global_step == state.max_steps:
            verdict = self.guard.judge(state.global_step)
            control.should_save = verdict == "good"
            control.should_training_stop = control.should_training_stop or verdict == "stop"

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / "guard.json"
            path.write_text(json.dumps(self.guard.state_dict()))
