"""The stage `cache`: a teacher's traces with its top-k log-probabilities, from which students are distilled without it.

A token takes 6·k + 2 bytes: the ids of the teacher's k likeliest tokens (int32), their log-probabilities and the log of
the mass of all others (float16, so rounded by at most 2⁻¹¹ of their size; the result tells the largest error met).
Files are safetensors of some hundred traces each, written one by one: a resumed run goes on at the next.

Left out on purpose: stored logits (a stored tail can't be tempered, so what is stored is at temperature 1).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from safetensors.torch import save
from transformers import PreTrainedTokenizerBase

from distillknob.config.checks import check_at_least_one
from distillknob.config.fields import check_choices
from distillknob.config.shared import BoundedAnswers
from distillknob.distillation.traces import RIGHT_ONES, TraceOptions, make_traces
from distillknob.divergences.top_k import topk_of
from distillknob.errors import BadInputError
from distillknob.inputs.identity import changed_meanwhile, read_by
from distillknob.inputs.preflight import Preflight
from distillknob.models.base import LanguageModel
from distillknob.models.chat import eos_ids, prompt_ids, set_in_templates
from distillknob.models.heads import checked_head
from distillknob.models.load import load_model
from distillknob.models.scoring import answer_hidden, batches
from distillknob.runs.files import atomic_write
from distillknob.runs.journal import Journal
from distillknob.runs.model_record import read_record, warn_of_teacher
from distillknob.runs.run import Run, load_run, runs_behind
from distillknob.runtime.processes import process_count, process_index, wait
from distillknob.runtime.progress import progress
from distillknob.runtime.template_date import fix_dates
from distillknob.tasks import get_tasks, graded_tasks

TRACES_A_FILE = 256
CACHED = ("teacher", "teacher_verified", "gold")  # the sources of traces that a cache may have


@dataclass
class CacheConfig(BoundedAnswers):
    """Config of `cache`."""

    answer_field: ClassVar[str] = "max_completion_length"

    teacher: str = field(default="zoo:teacher", metadata={"help": "Teacher: folder, hub id or zoo:NAME."})
    tasks: list[str] = field(default_factory=lambda: ["math"], metadata={"help": "Tasks whose problems are used."})
    problems: int = field(default=2000, metadata={"help": "Problems a task, from its train split."})
    traces: str = field(default="teacher", metadata={"help": "Where the traces come from.", "choices": CACHED})
    candidates: int = field(default=8, metadata={"help": "Teacher samples a problem for teacher_verified."})
    top_k: int = field(default=32, metadata={"help": "Log-probabilities kept at each token, beside one for the rest."})
    max_completion_length: int | None = field(default=None, metadata={"help": "Default: the task's own longest."})
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None, metadata={"help": 'Variables of the chat templates, e.g. {"enable_thinking": false}.'}
    )
    seed: int = field(default=0, metadata={"help": "Seed of problems and sampling."})

    def __post_init__(self) -> None:
        check_at_least_one(self, "problems", "candidates", "top_k")
        check_choices(self)
        if not self.tasks:
            raise BadInputError("tasks is empty: name at least one, e.g. math")

    @property
    def models_read(self) -> list[str]:
        """The models that the stage reads; those that are runs' models are its inputs."""
        return [self.teacher]


def vocabulary_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """What two tokenizers share exactly when they have the same tokens under the same ids."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()


def check(config: CacheConfig, preflight: Preflight) -> None:
    """Raise BadInputError for what `cache` couldn't use, before any weight is loaded."""
    (teacher,) = preflight.sides([config.teacher], config.chat_template_kwargs, weights=[config.teacher])
    if teacher.tokenizer is not None and teacher.vocabulary is not None:
        vocabulary = min(teacher.vocabulary, 1 + max(teacher.tokenizer.get_vocab().values()))
        if config.top_k > vocabulary:
            raise BadInputError(f"top_k={config.top_k}: the teacher has {vocabulary} tokens")
    answer = preflight.longest_answer(config.tasks, config.max_completion_length)
    for name in config.tasks:
        task = preflight.task(name, graded=config.traces in RIGHT_ONES)
        if task is None:
            continue
        examples = task.examples("train", config.problems, seed=config.seed)
        if config.traces == "gold":
            preflight.check_gold(teacher, task, examples)
        else:
            preflight.check_fit(teacher, task, examples, answer, "max_completion_length")


def cache(config: CacheConfig, output: str | Path, *, resume: bool = False) -> Run:
    """Write the teacher's traces and top-k log-probabilities and return the run.

    Raises BadInputError before any work for input that can't be used.
    """
    tasks = (graded_tasks if config.traces in RIGHT_ONES else get_tasks)(config.tasks)
    opened: dict[str, Any] = {"inputs": runs_behind(config.models_read), "read": read_by(config), "resume": resume}
    if (done := Run.finished(output, "cache", asdict(config), **opened)) is not None:
        return done
    preflight = Preflight(process_count())
    check(config, preflight)
    preflight.tell()
    teacher = load_model(config.teacher)
    set_in_templates({config.teacher: teacher.tokenizer}, config.chat_template_kwargs)
    vocabulary = _width(teacher)
    run = Run.open(output, "cache", asdict(config), **opened)
    if run.complete:
        return run
    fix_dates({config.teacher: teacher.tokenizer}, run.template_date)
    warning = warn_of_teacher(config.teacher)
    traces = run.samples()
    if not traces:
        options = TraceOptions(config.candidates, config.max_completion_length, config.seed)
        journal = Journal(run.unfinished).part("traces")
        traces = make_traces(config.traces, tasks, config.problems, teacher, teacher, None, options, journal=journal)
        run.write_samples(traces)
    starts = range(0, len(traces), TRACES_A_FILE)
    with progress("cache", len(starts), unit="file") as bar:
        for number, start in enumerate(starts):
            path = run.path / _file(number)
            if number % process_count() == process_index() and not path.exists():
                found = _stored(teacher, traces[start : start + TRACES_A_FILE], config.top_k, vocabulary)
                # One entry: safetensors writes several in any order, and a file's bytes should follow from its content.
                told = {"told": json.dumps(found.pop("told"))}
                atomic_write(path, save(found, metadata=told))
            bar.update(1)
    wait()
    errors = [_told(run.path / _file(number)) for number in range(len(starts))]
    tokens = sum(len(row["completion_ids"]) for row in traces)
    run.finish(
        {
            "stage": "cache",
            "teacher": config.teacher,
            "teacher_record": read_record(config.teacher),
            "warning": warning,
            "notes": changed_meanwhile(run, config),
            "top_k": config.top_k,
            "vocabulary": vocabulary_digest(teacher.tokenizer),
            "width": vocabulary,
            "ends": eos_ids(teacher),
            "traces": len(traces),
            "tokens": tokens,
            "bytes_per_token": sum((run.path / _file(i)).stat().st_size for i in range(len(starts))) / max(1, tokens),
            "max_logprob_error": max(row["max_logprob_error"] for row in errors),
            "mean_tail_mass": sum(row["tail_mass"] for row in errors) / max(1, tokens),
        }
    )
    return run


def _width(teacher: LanguageModel) -> int:
    """Up to where the tokenizer has tokens. Embeddings are padded beyond it, to another width in each size of a family
    (Qwen2.5 7B and 1.5B), and a student of another width has to find the same distribution."""
    embeddings = len(teacher.model.get_output_embeddings().weight)
    return min(embeddings, 1 + max(teacher.tokenizer.get_vocab().values()))


def _file(number: int) -> str:
    return f"topk-{number:05d}.safetensors"


def _told(path: Path) -> dict[str, float]:
    with safe_open(path, framework="pt") as file:
        told: dict[str, float] = json.loads(file.metadata()["told"])
        return told


@torch.no_grad()
def _stored(
    teacher: LanguageModel, traces: Sequence[dict[str, Any]], k: int, width: int, batch_tokens: int = 16_384
) -> dict[str, Any]:
    """`ids` [N, K], `logprobs` [N, K], `tail` [N] of the traces' tokens in their order, `offsets` of the traces. Of the
    teacher's tokens the first `width` are compared."""
    prompts, ids = (
        prompt_ids(teacher.tokenizer, [row["prompt"] for row in traces]),
        [r["completion_ids"] for r in traces],
    )
    offsets = torch.tensor([0, *map(len, ids)]).cumsum(0)
    tokens = int(offsets[-1])
    found: dict[str, Any] = {
        "ids": torch.zeros(tokens, k, dtype=torch.int32),
        "logprobs": torch.zeros(tokens, k, dtype=torch.float16),
        "tail": torch.zeros(tokens, dtype=torch.float16),
        "offsets": offsets,
    }
    worst, mass, head = 0.0, 0.0, checked_head(teacher.model)
    for batch in batches(prompts, ids, teacher.model.device, batch_tokens):
        if batch.answer_ids_BA.size(1) == 0:
            continue
        hidden_NH = answer_hidden(teacher, batch)
        parts = [topk_of(head.logits(hidden_NH[block])[:, :width], k)[:3] for block in head.blocks(len(hidden_NH))]
        top, logprobs, tail = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
        here = torch.cat([torch.arange(int(offsets[i]), int(offsets[i + 1])) for i in batch.rows])
        found["ids"][here], found["logprobs"][here], found["tail"][here] = top.int(), logprobs.half(), tail.half()
        worst = max(worst, float((logprobs - logprobs.half().double()).abs().nan_to_num(0.0).max()))
        mass += float(tail.exp().sum())
    found["told"] = {"max_logprob_error": worst, "tail_mass": mass}
    return found


class TeacherCache:
    """A finished cache, read a trace at a time."""

    def __init__(self, path: str | Path):
        """Raises BadInputError where `path` is no finished cache."""
        run = load_run(path)
        if run.stage != "cache" or not run.complete:
            state = "" if run.complete else "unfinished "
            raise BadInputError(f"{path} holds an {state}{run.stage} run: give a finished one of `distillknob cache`")
        self.result, self.traces, self._path = run.result, run.samples(), run.path
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
                self._files[file] = safe_open(self._path / _file(file), framework="pt")
            opened = self._files[file]
            start, end = opened.get_slice("offsets")[place : place + 2].tolist()
            ids = opened.get_slice("ids")[start:end].long()
            yield (
                ids,
                opened.get_slice("logprobs")[start:end].float(),
                opened.get_slice("tail")[start:end].float(),
            )
