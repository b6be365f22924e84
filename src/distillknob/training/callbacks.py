"""Callbacks of both Trainers: the run's log, a bar, the peak of memory, and an end where the loss isn't finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from distillknob.errors import DivergedError
from distillknob.runs.run import Run
from distillknob.runtime.machine import forget_peak_memory, peak_memory
from distillknob.runtime.progress import progress


class RunLogger(TrainerCallback):
    """Writes what the Trainer logs into the run's metrics.jsonl, under our names, one object a step."""

    def __init__(self, run: Run, names: Mapping[str, str]):
        self.run, self.names = run, names

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "train_runtime" in logs:  # the Trainer's own summary at the end
            return
        row: dict[str, Any] = {"step": state.global_step}
        for name, value in logs.items():
            row[self.names.get(name, name)] = float(value) if isinstance(value, str | float | int) else value
        self.run.log(**row)


class PeakMemory(TrainerCallback):
    """Logs as `peak_memory` the most bytes that this process held from the first step to the last
    (`runtime.machine.peak_memory`); nothing where that can't be known. A training that is resumed logs it once more."""

    def __init__(self, run: Run):
        self.run, self.known = run, False

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.known = forget_peak_memory()

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.known:
            self.run.log(step=state.global_step, peak_memory=peak_memory())


class StageProgress(TrainerCallback):
    """A bar over the steps with the time left and a few metrics, or lines where stderr is no terminal."""

    def __init__(self, description: str, shown: Mapping[str, str]):
        self.description, self.shown = description, shown
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.bar = progress(self.description, state.max_steps, unit="step", initial=state.global_step)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(1)

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        if self.bar is not None and logs:
            # TRL logs None for what isn't finite.
            figures = {label: logs[name] for name, label in self.shown.items() if logs.get(name) is not None}
            self.bar.set_postfix({label: f"{float(value):.3g}" for label, value in figures.items()})

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()


class FiniteLoss(TrainerCallback):
    """Ends a run whose loss or gradient is NaN or infinite, before the weights are lost in a checkpoint."""

    def __init__(self, run: Run):
        self.run = run

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        broken = [k for k in ("loss", "grad_norm") if k in (logs or {}) and not math.isfinite(float((logs or {})[k]))]
        if broken:
            raise DivergedError(
                f"{' and '.join(broken)} not finite at step {state.global_step}: the checkpoints before it are kept in "
                f"{args.output_dir}. Lower the learning rate, or look at that step's samples"
            )


def add_callbacks(trainer: Any, *callbacks: TrainerCallback) -> None:
    """Put our callbacks in place of transformers' bar and printer, which write their logs to stdout."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    for callback in callbacks:
        trainer.add_callback(callback)
