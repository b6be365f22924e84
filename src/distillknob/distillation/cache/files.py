"""The files of a cache: a teacher's top-k log-probabilities, written and read a trace at a time.

A token takes 6·k + 2 bytes: the ids of the teacher's k likeliest tokens (int32), their log-probabilities and the log of
the mass of all others (float16, so rounded by at most 2⁻¹¹ of their size; a file tells the largest error met). Files
are safetensors of some hundred traces each, written one by one.

Left out on purpose: stored logits (a stored tail can't be tempered, so what is stored is at temperature 1).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import save
from transformers import PreTrainedTokenizerBase

from distillknob.divergences.top_k import topk_of
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids
from distillknob.models.heads import Head, checked_head
from distillknob.models.loaded.scoring import edited_logits
from distillknob.models.scoring import Batch, answer_hidden, batches
from distillknob.results.stages import CacheResult
from distillknob.runs.files import atomic_write
from distillknob.runs.run import load_run

if TYPE_CHECKING:
    from transformers import LogitsProcessor

TRACES_A_FILE = 256
_SUMMARY = "told"  # a file's key for its own summary, on disk


def vocabulary_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """What two tokenizers share exactly when they have the same tokens under the same ids."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()


def compared_tokens(teacher: LanguageModel) -> int:
    """How many tokens a cache compares: up to where the tokenizer has some. Embeddings are padded beyond it, to another
    width in each size of a family (Qwen2.5 7B and 1.5B), and a student of another width has to find the same
    distribution."""
    embeddings = len(teacher.model.get_output_embeddings().weight)
    return min(embeddings, 1 + max(teacher.tokenizer.get_vocab().values()))


def file_name(number: int) -> str:
    return f"topk-{number:05d}.safetensors"


def files_of(traces: Sequence[Mapping[str, Any]], folder: Path) -> dict[Path, Sequence[Mapping[str, Any]]]:
    """A cache's files in their order, each with the traces that it holds."""
    starts = range(0, len(traces), TRACES_A_FILE)
    return {folder / file_name(n): traces[start : start + TRACES_A_FILE] for n, start in enumerate(starts)}


@torch.no_grad()
def write_file(
    path: Path,
    teacher: LanguageModel,
    traces: Sequence[Mapping[str, Any]],
    k: int,
    width: int,
    batch_tokens: int = 16_384,
    edit: LogitsProcessor | None = None,
) -> None:
    """Write `ids` [N, K], `logprobs` [N, K] and `tail` [N] of the traces' tokens in their order, and where each trace
    begins. Of the teacher's tokens the first `width` are compared; with `edit` under its next-token logits."""
    prompts = prompt_ids(teacher.tokenizer, [trace["prompt"] for trace in traces])
    answers = [trace["completion_ids"] for trace in traces]
    offsets = torch.tensor([0, *map(len, answers)]).cumsum(0)
    tokens = int(offsets[-1])
    ids_NK = torch.zeros(tokens, k, dtype=torch.int32)
    logprobs_NK = torch.zeros(tokens, k, dtype=torch.float16)
    tail_N = torch.zeros(tokens, dtype=torch.float16)
    worst, mass, head = 0.0, 0.0, checked_head(teacher.model)
    for batch in batches(prompts, answers, teacher.model.device, batch_tokens):
        if batch.answer_ids_BA.size(1) == 0:
            continue
        here = torch.cat([torch.arange(int(offsets[i]), int(offsets[i + 1])) for i in batch.rows])
        for place_R, logits_RV in _logits(teacher, head, batch, edit):
            top, logprobs, tail = (part.cpu() for part in topk_of(logits_RV[:, :width], k)[:3])
            rows = here[place_R.cpu()]
            ids_NK[rows], logprobs_NK[rows], tail_N[rows] = top.int(), logprobs.half(), tail.half()
            worst = max(worst, float((logprobs - logprobs.half().double()).abs().nan_to_num(0.0).max()))
            mass += float(tail.exp().sum())
    columns = {"ids": ids_NK, "logprobs": logprobs_NK, "tail": tail_N, "offsets": offsets}
    # One entry: safetensors writes several in any order, and a file's bytes should follow from its content.
    summary = json.dumps({"max_logprob_error": worst, "tail_mass": mass})
    atomic_write(path, save(columns, metadata={_SUMMARY: summary}))


def _logits(
    teacher: LanguageModel, head: Head, batch: Batch, edit: LogitsProcessor | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The next-token logits [R, V] at the tokens of a batch's answers, and the places [R] of these tokens among all."""
    if edit is not None:
        yield from edited_logits(teacher, head, batch, edit)
        return
    hidden_NH = answer_hidden(teacher, batch)
    places_N = torch.arange(len(hidden_NH))
    for block in head.blocks(len(hidden_NH)):
        yield places_N[block], head.logits(hidden_NH[block])


def summary_of(path: Path) -> dict[str, float]:
    """The largest rounding error of a file's log-probabilities, and the sum of its tails' mass."""
    with safe_open(path, framework="pt") as file:
        summary: dict[str, float] = json.loads(file.metadata()[_SUMMARY])
        return summary


class TeacherCache:
    """A finished cache, read a trace at a time."""

    def __init__(self, path: str | Path):
        """Raises BadInputError where `path` is no finished cache."""
        run = load_run(path)
        if run.stage != "cache" or not run.complete:
            state = "" if run.complete else "unfinished "
            raise BadInputError(f"{path} holds an {state}{run.stage} run: give a finished one of `distillknob cache`")
        self.result = cast(CacheResult, run.result)
        self.traces, self._path = run.samples(), run.path
        self.teacher: str = run.config["teacher"]
        self.width: int = self.result["width"]
        self.tasks: list[str] = run.config["tasks"]
        self.problems: int = run.config["problems"]
        self.ends: list[int] = self.result.get("ends", [])  # what ends its teacher's answers; older caches don't say
        self.seed: int = run.config["seed"]
        self.template_date = run.template_date
        self._files: dict[int, Any] = {}

    def check_student(self, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise BadInputError unless the student has the teacher's tokens under the teacher's ids."""
        if vocabulary_digest(tokenizer) != self.result["vocabulary"]:
            raise BadInputError(
                f"{self._path} was written by a teacher with another tokenizer than that of "
                f"{name!r}: use an sft method, or a student with the teacher's tokenizer"
            )

    def rows(self, traces: Sequence[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """For each trace: ids [T, K] (int64), logprobs [T, K] and tail [T] (float32)."""
        for number in traces:
            file, place = divmod(number, TRACES_A_FILE)
            if file not in self._files:
                self._files[file] = safe_open(self._path / file_name(file), framework="pt")
            opened = self._files[file]
            start, end = opened.get_slice("offsets")[place : place + 2].tolist()
            ids = opened.get_slice("ids")[start:end].long()
            yield (
                ids,
                opened.get_slice("logprobs")[start:end].float(),
                opened.get_slice("tail")[start:end].float(),
            )
