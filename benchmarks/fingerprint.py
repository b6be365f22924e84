"""Is a student of a marked teacher found, and one of an unmarked one not? What does a mark cost? Markdown on stdout.

    python benchmarks/fingerprint.py --output runs/fingerprint
    python benchmarks/fingerprint.py --deltas 0 2 4 --strengths 64 --window 2 --tasks math qa instruct \
        --output runs/fingerprint

Teachers with a green list of one key: δ on green tokens' logits (0 is the unmarked one), or with --strengths the change
by a proxy, λ. Each writes one answer to each training problem; a student learns from the texts by SFT, and the stage
`fingerprint` tests it for the key by its text and by its next-token distributions, beside the student before
distillation. All students train on the same problems, steps and tokens a step. The teacher's score is on test problems,
and its difference to the unmarked one is paired by problem. A false alarm is a key that nobody used and that is called
found at the level --alpha. Resumable: what is there under one --output isn't made again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillknob.cli.text import percent
from distillknob.config.recipe import read_recipe, stage_config
from distillknob.defences.green_list import GreenList
from distillknob.distillation.stage import distill
from distillknob.evaluation.task_result import TaskResult, difference, evaluate_task
from distillknob.fingerprints.config import FingerprintConfig
from distillknob.fingerprints.green import GreenRule, Key
from distillknob.fingerprints.radioactivity import Examined, examined, pairs_observed, places
from distillknob.fingerprints.stage import fingerprint
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids
from distillknob.models.load import load_model
from distillknob.models.sampling import Sampling, generate
from distillknob.models.scoring import encoded_texts
from distillknob.runs.journal import Journal
from distillknob.runtime.machine import keep_freed_memory, quiet_libraries
from distillknob.tasks import get_tasks

COLUMNS = (
    "teacher",
    "its score, %",
    "less the unmarked",
    "its own text: pairs",
    "z",
    "p",
    "student's text: pairs",
    "z",
    "p",
    "false alarms, %",
    "its distributions: windows",
    "z",
    "p",
    "false alarms, %",
    "reference's text: p",
    "its distributions: p",
)


@dataclass(frozen=True)
class Mark:
    """One teacher: δ of its green list, or λ where its proxy is named."""

    delta: float
    strength: float | None = None

    @property
    def name(self) -> str:
        return f"delta{self.delta:g}" if self.strength is None else f"strength{self.strength:g}"

    @property
    def shown(self) -> str:
        if self.strength is not None:
            return f"proxy, λ = {self.strength:g}"
        return f"δ = {self.delta:g}" if self.delta else "unmarked"


def marks(arguments: argparse.Namespace) -> Iterator[Mark]:
    """The unmarked teacher first."""
    yield Mark(0.0)
    yield from (Mark(delta) for delta in arguments.deltas if delta)
    yield from (Mark(0.0, strength) for strength in arguments.strengths)


def green_list(mark: Mark, key_file: Path, arguments: argparse.Namespace) -> GreenList:
    by_proxy = {} if mark.strength is None else {"strength": mark.strength, "proxy": arguments.proxy}
    return GreenList(
        delta=mark.delta, share=arguments.share, window=arguments.window, key_file=str(key_file), **by_proxy
    )


def written_traces(
    mark: Mark, defence: GreenList, teacher: LanguageModel, folder: Path, arguments: argparse.Namespace
) -> Path:
    """The file with one answer of the marked teacher to each training problem."""
    path = folder / f"traces-{mark.name}.jsonl"
    if path.exists():
        return path
    rows: list[dict[str, Any]] = []
    for task in get_tasks(arguments.tasks):
        prompts = [task.messages(e) for e in task.examples("train", arguments.train_problems, seed=arguments.seed)]
        sampling = Sampling(max_new_tokens=task.max_new_tokens, seed=arguments.seed)
        journal = Journal(folder / "journal" / f"traces-{mark.name}-{task.name}")
        wrapped = defence.wrapped(teacher, task)
        answers, samples, _ = generate(wrapped, prompts, 1, sampling, journal=journal, description=mark.shown).flat()
        rows += [
            {"prompt": prompt, "completion": sample.text, "finished": sample.finished, "task": task.name}
            for prompt, sample in zip(answers, samples, strict=True)
            if sample.text
        ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def scored(
    mark: Mark, defence: GreenList, teacher: LanguageModel, folder: Path, arguments: argparse.Namespace
) -> list[TaskResult]:
    """The marked teacher's score on test problems, a result a task."""
    return [
        evaluate_task(
            defence.wrapped(teacher, task),
            task,
            problems=arguments.problems,
            samples=arguments.samples,
            seed=arguments.seed,
            modes=False,
            journal=Journal(folder / "journal" / f"score-{mark.name}-{task.name}"),
            description=mark.shown,
        )
        for task in get_tasks(arguments.tasks)
    ]


def tested(
    mark: Mark, traces: Path, key_file: Path, recipe: Mapping[str, Any], folder: Path, arguments: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """The tests of the mark's student and of the reference, by part and by what they read."""
    config = stage_config(
        "distill",
        recipe,
        student=arguments.student,
        tasks=arguments.tasks,
        method="sft",
        traces="file",
        traces_file=str(traces),
        curve_steps=0,
        problems=arguments.train_problems,
        learning_rate=recipe["sweep"]["learning_rates"]["sft"],
        seed=arguments.seed,
        **({} if arguments.steps is None else {"max_steps": arguments.steps}),
    )
    student = distill(config, folder / f"student-{mark.name}", resume=True)
    shutil.rmtree(student.path / "checkpoints", ignore_errors=True)
    run = fingerprint(
        FingerprintConfig(
            student=str(student.path / "model"),
            reference=arguments.student,
            teacher=arguments.teacher,
            key_file=str(key_file),
            share=arguments.share,
            window=arguments.window,
            access="weights",
            alpha=arguments.alpha,
            keys=arguments.keys,
            tasks=arguments.tasks,
            problems=arguments.train_problems,
            samples=arguments.samples,
            seed=arguments.seed,
        ),
        folder / f"fingerprint-{mark.name}",
        resume=True,
    )
    return {f"{row['part']}, {test['test']}": test for row in run.result["suspects"] for test in row["tests"]}


def own_text(traces: Path, teacher: LanguageModel, key_file: Path, arguments: argparse.Namespace) -> Examined:
    """The test of the marked teacher's own text, which is what its student learnt from."""
    rows = [json.loads(line) for line in traces.read_text(encoding="utf-8").splitlines()]
    tokenizer = teacher.tokenizer
    prompts_ids = prompt_ids(tokenizer, [row["prompt"] for row in rows])
    answers_ids = encoded_texts(tokenizer, [row["completion"] for row in rows])["input_ids"]
    rule = GreenRule(Key.of_file(key_file), arguments.share, arguments.window)
    read = places(prompts_ids, answers_ids, arguments.window, by_window=False)
    return examined(pairs_observed(read), rule, arguments.keys, arguments.seed)


def row_of(
    mark: Mark, results: Sequence[TaskResult], first: Sequence[TaskResult], own: Examined, tests: Mapping[str, Any]
) -> str:
    changes = [
        f"{result.task} {percent(change.mean, change.as_list(), signed=True)}"
        for before, result in zip(first, results, strict=True)
        for change in (difference(before, result),)
    ]
    cells = [
        mark.shown,
        "<br>".join(f"{result.task} {percent(result.score.mean, result.score.as_list())}" for result in results),
        "–" if results is first else "<br>".join(changes),
        str(own.n),
        f"{own.z:+.1f}",
        f"{own.permutation:.2g}",
        *(cell for what in ("text", "weights") for cell in _test_cells(tests[f"student, {what}"])),
        *(f"{tests[f'reference, {what}']['p']:.2g}" for what in ("text", "weights")),
    ]
    return f"| {' | '.join(cells)} |"


def _test_cells(test: Mapping[str, Any]) -> list[str]:
    return [str(test["n"]), f"{test['z']:+.1f}", f"{test['p']:.2g}", f"{100 * test['false_alarms']:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/embedded.yaml")
    parser.add_argument("--teacher", default="zoo:teacher")
    parser.add_argument("--student", default="zoo:student", help="before distillation, and the reference")
    parser.add_argument("--tasks", nargs="+", default=["math", "qa", "instruct"])
    parser.add_argument("--deltas", nargs="*", type=float, default=[2.0, 4.0], help="beside 0")
    parser.add_argument("--strengths", nargs="*", type=float, default=[], help="λ of the change by the proxy")
    parser.add_argument("--proxy", default="zoo:proxy")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--window", type=int, default=2)
    parser.add_argument("--alpha", type=float, default=0.01)
    parser.add_argument("--keys", type=int, default=500)
    parser.add_argument(
        "--train-problems", type=int, default=400, help="problems a task, to train on and to be tested on"
    )
    parser.add_argument("--steps", type=int, help="steps of a student (default: the recipe's)")
    parser.add_argument("--problems", type=int, default=200, help="test problems a task for the teacher's score")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    quiet_libraries()
    keep_freed_memory()
    recipe, teacher = read_recipe(arguments.recipe), load_model(arguments.teacher)
    arguments.output.mkdir(parents=True, exist_ok=True)
    key_file = arguments.output / "key.txt"
    key_file.write_text(f"a key of the benchmark, number {arguments.seed}\n", encoding="utf-8")
    print(f"| {' | '.join(COLUMNS)} |")
    print("|" + "---|" * len(COLUMNS))
    first: list[TaskResult] = []
    for mark in marks(arguments):
        defence = green_list(mark, key_file, arguments)
        results = scored(mark, defence, teacher, arguments.output, arguments)
        first = first or results
        traces = written_traces(mark, defence, teacher, arguments.output, arguments)
        tests = tested(mark, traces, key_file, recipe, arguments.output, arguments)
        own = own_text(traces, teacher, key_file, arguments)
        print(row_of(mark, results, first, own, tests), flush=True)


if __name__ == "__main__":
    main()
