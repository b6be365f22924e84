"""What a calibration does beside its steps: the guard's judgement, and the state that is kept beside checkpoints."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from distillknob.calibration.guard import UtilityGuard
from distillknob.calibration.trainer import CalibrationTrainer

REWARD_STATE = "reward.json"  # beside a checkpoint


class RewardCallback(TrainerCallback):
    """Keeps beside each checkpoint what the calibration reward and the hold on the task have learnt so far."""

    def __init__(self, trainer: CalibrationTrainer):
        self.trainer = trainer

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / REWARD_STATE
            path.write_text(json.dumps(self.trainer.reward_state()))


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
