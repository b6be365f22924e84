"""What a student predicted for each text when it last read it: the memory of `losses.own_past`.

It is kept by the number of a trace, so that no order of the data changes it, on every process alike, and beside each
checkpoint. A token takes 8·K + 4 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from distillknob.errors import BadInputError

PAST = "past.safetensors"  # beside a checkpoint


class Past(TrainerCallback):
    """By trace: how often it was read, and for each of its tokens the ids of the K likeliest, their log-probabilities
    and the log of the mass of all others, [T, 2·K + 1]."""

    def __init__(self, top_k: int):
        self.top_k = top_k
        self._reads: dict[int, int] = {}
        self._predicted: dict[int, Tensor] = {}

    def reads(self, trace: int) -> int:
        """How often a trace was read."""
        return self._reads.get(trace, 0)

    def keep(self, rows_ND: Tensor) -> None:
        """Keep what was predicted for some traces in place of what was before. Each row is a token: the trace, the
        token's position in it, and the 2·K + 1 numbers."""
        for trace in rows_ND[:, 0].unique().tolist():
            rows = rows_ND[rows_ND[:, 0] == trace]
            order = rows[:, 1].argsort()
            positions, first = rows[order, 1].unique_consecutive(return_counts=True)
            starts = first.cumsum(0) - first  # a trace may have been read twice in a step, to fill it
            self._predicted[int(trace)] = rows[order][starts, 2:].clone()
            self._reads[int(trace)] = self.reads(int(trace)) + 1
            if len(positions) != int(positions[-1]) + 1:
                raise ValueError(f"trace {int(trace)}: tokens are missing")

    def columns(self, traces: Sequence[int], width: int) -> Tensor:
        """What was predicted for these traces, [b, width, 2·K + 1]; zeros where nothing was."""
        columns = torch.zeros(len(traces), width, 2 * self.top_k + 1)
        for row, trace in zip(columns, traces, strict=True):
            if (predicted := self._predicted.get(trace)) is not None:
                row[: len(predicted)] = predicted
        return columns

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the past beside the checkpoint that was just written."""
        if state.is_world_process_zero:
            traces = sorted(self._predicted)
            columns = {
                "traces": torch.tensor([[trace, self._reads[trace], len(self._predicted[trace])] for trace in traces]),
                "predicted": torch.cat([self._predicted[trace] for trace in traces]),
            }
            save_file(columns, Path(args.output_dir) / f"checkpoint-{state.global_step}" / PAST)

    def restore(self, checkpoint: str | Path) -> None:
        """Take the past up from a checkpoint. Raises BadInputError where none lies there."""
        path = Path(checkpoint) / PAST
        if not path.is_file():
            raise BadInputError(f"{checkpoint} has no {PAST}, so that the student's past isn't known: start anew")
        columns = load_file(path)
        rows = columns["traces"].tolist()
        parts = columns["predicted"].split([length for *_, length in rows])
        self._reads = {trace: reads for trace, reads, _ in rows}
        self._predicted = {trace: part for (trace, *_), part in zip(rows, parts, strict=True)}
