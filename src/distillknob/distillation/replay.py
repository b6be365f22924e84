"""Own samples that are read again, and the loss on held-back traces: the adaptive share of `sources` in a training.

The validation loss is the mean of −log q over the tokens of the held-back traces, in nats. Every process reads all of
them, and the mean over the processes decides on each. A buffer holds what its own process has written, and all are
equally full, since every process writes as many texts a step. Which of them a step reads follows from seed, step and
process, so that a resumed training goes on as an unbroken one.

What is kept beside each checkpoint: φ, the loss that the next is compared with, and the buffers of all processes.
"""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import Trainer, TrainerCallback

from distillknob.distillation.batches import completions_of, with_completions
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses import View
from distillknob.distillation.losses.base import PROMPT
from distillknob.distillation.losses.blocks import placed_logprobs
from distillknob.distillation.sources import FRESH, REPLAYED, STORED, AdaptiveShare, Share, draw_of, source_of
from distillknob.errors import BadInputError
from distillknob.runs.files import atomic_write, json_bytes

REPLAY = "replay.json"  # beside a checkpoint
Row = Mapping[str, Any]  # of the data set


class Replay(TrainerCallback):
    """The state of an adaptive share in one of `processes`: φ and the loss it is compared with, and the buffer, whose
    rows are those of the data set with the student's sample as their `completion_ids`."""

    def __init__(self, mix: AdaptiveShare, *, process: int = 0, processes: int = 1):
        self.mix, self.process, self.processes = mix, process, processes
        self.share = Share(mix.own_share)
        self.rows: deque[Row] = deque(maxlen=int(mix.replay_capacity))

    @property
    def full(self) -> bool:
        """Does the oldest sample leave when another comes?"""
        return len(self.rows) == self.rows.maxlen

    def is_due(self, step: int) -> bool:
        """Is the validation loss measured before this step, counted from 0?"""
        return step % int(self.mix.validation_every) == 0

    def measured(self, loss: float) -> None:
        """Take a validation loss into account."""
        self.share = self.share.after(loss, rise=self.mix.own_share_rise, tolerance=self.mix.own_share_tolerance)

    def keep(self, rows: Iterable[Row], completions: Iterable[Sequence[int]]) -> None:
        """Keep the student's samples to these rows."""
        self.rows.extend({**row, "completion_ids": [*ids]} for row, ids in zip(rows, completions, strict=True))

    def drawn(self, count: int, seed: str) -> list[Row]:
        """Draw so many of the kept rows, each at most once. Raises ValueError where fewer are kept."""
        return random.Random(f"{seed}/replay/{self.process}").sample([*self.rows], count)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the state beside the checkpoint that was just written. All processes make this same call."""
        buffers = [[*self.rows]] if self.processes == 1 else gather_object([[*self.rows]])
        if state.is_world_process_zero:
            kept = {"share": self.share.share, "loss": self.share.loss, "buffers": buffers}
            atomic_write(Path(args.output_dir) / f"checkpoint-{state.global_step}" / REPLAY, json_bytes(kept))

    def restore(self, checkpoint: str | Path) -> None:
        """Take the state up from a checkpoint. Raises BadInputError where none lies there, or that of another number
        of processes."""
        path = Path(checkpoint) / REPLAY
        if not path.is_file():
            raise BadInputError(f"{checkpoint} has no {REPLAY}, so that its own samples aren't known: start anew")
        kept = json.loads(path.read_text(encoding="utf-8"))
        if len(kept["buffers"]) != self.processes:
            raise BadInputError(
                f"{path} has the samples of {len(kept['buffers'])} processes, and here are {self.processes}: go on "
                "with as many, or start anew"
            )
        self.share = Share(kept["share"], kept["loss"])
        self.rows.clear()
        self.rows.extend(kept["buffers"][self.process])


class MixedSources(Trainer):
    """A mixin for DistillTrainer, before TRL's in the order of bases: what each step reads."""

    args: DistillConfig
    replay: Replay | None = None
    _held_back: Sequence[Row] = ()

    def _make_replay(self) -> None:
        """Where the share is adaptive, hold the last rows of the data set back, and begin with an empty buffer."""
        mix, dataset = self.args.made_sources, self.train_dataset
        if mix is None:
            return
        rows: Any = dataset
        trained = len(rows) - mix.held_back(len(rows))
        self._held_back = [dict(rows[place]) for place in range(trained, len(rows))]
        self.train_dataset = rows.select(range(trained))
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        self.replay = Replay(mix, process=process, processes=processes)
        self.add_callback(self.replay)

    def on_policy(self, step: int) -> bool:
        """Does this step train on the student's own samples, by a fixed share? Drawn from seed and step: the same on
        every process, and after a resume."""
        return draw_of(self.args.seed, step) < self.args.share_on_policy

    def _source(self, rows: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
        """What this step reads, and the rows of it: those that the loader gives, or as many of the buffer."""
        step = int(self.state.global_step)
        if self.replay is None:
            return FRESH if self.on_policy(step) else STORED, rows
        this: Any = self
        metrics = this._metrics["train"]
        if self.replay.is_due(step):
            loss = self._validation_loss()
            self.replay.measured(loss)
            metrics["validation_loss"].append(loss)
        share, progress = self.replay.share.share, step / max(1, self.state.max_steps)
        source = source_of(draw_of(self.args.seed, step), share, progress, full=self.replay.full)
        metrics["own_share"].append(share)
        metrics["replayed"].append(float(source == REPLAYED))
        if source == REPLAYED:
            rows = [dict(row) for row in self.replay.drawn(len(rows), f"{self.args.seed}/{step}")]
        return source, rows

    def _keep_samples(self, source: str, rows: Sequence[Row], batch: Mapping[str, Any]) -> None:
        """Keep what the student has just written."""
        if self.replay is not None and source == FRESH:
            self.replay.keep(rows, completions_of(batch))

    def _validation_loss(self) -> float:
        """The mean of −log q over the tokens of the held-back traces, in nats, without dropout or gradients."""
        this: Any = self
        columns = this._padded(PROMPT, this._tokenizer, [row["prompt"] for row in self._held_back])
        empty = torch.zeros(0, 0, dtype=torch.long, device=self.accelerator.device)
        batch = with_completions(
            {**columns, "completion_ids": empty, "completion_mask": empty},
            [row["completion_ids"] for row in self._held_back],
            this._tokenizer.pad_token_id,
        )

        def logprobs(view: View) -> Tensor:
            student = view.student
            return placed_logprobs(student.head, student.hidden_BCH, view.batch["completion_ids"], view.counted_BC)

        with this._as_it_is():
            total = this._measured(logprobs, batch).float().sum()
        loss = -total / batch["completion_mask"].sum().clamp(min=1)
        return float(self.accelerator.gather(loss.reshape(1)).mean())
