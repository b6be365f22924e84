"""How well `diagnose` foretells how far a calibration turns a teacher. Markdown on stdout.

    python benchmarks/knob.py --cells docs/evidence/rewards.jsonl --runs runs/demo/eta-0.25/calibrate

The calibrations are those of finished runs (by task), and of kept cells of `benchmarks/rewards.py` (mathematics,
embedded recipe). Beside each stands the forecast for its teacher, target, reward, η and β, from train-split problems;
it has seen nothing of the calibration. `ways` and `answers` are its two scopes: a policy that shifts ways of writing
over all problems alike, and one that has learnt each problem for itself.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np

from distillknob.diagnosis.config import DiagnoseConfig, KnobReward
from distillknob.diagnosis.knob import Knob, knob_rows
from distillknob.diagnosis.knob_samples import knob_samples
from distillknob.diagnosis.samples import KnobSamples, OwnAnswers
from distillknob.diagnosis.ways import ways_of
from distillknob.evaluation.measure import Measured, sample_and_grade
from distillknob.models.base import LanguageModel
from distillknob.models.load import load_model
from distillknob.models.scoring import token_logprobs
from distillknob.results.diagnosis import Scope
from distillknob.runs.journal import Journal
from distillknob.runs.run import load_run
from distillknob.runtime.machine import keep_freed_memory
from distillknob.stats import spearman
from distillknob.tasks import get_task

PER_TOKEN = "sequence_mean"
EASY = "every_step"  # what cells of benchmarks/rewards.py count
BETA = 0.15  # of the embedded recipe, which those were run with


@dataclass(frozen=True)
class Calibration:
    """What one calibration did on one task: by how much its reward moved, the share of a way afterwards, the teacher's
    score, the KL to the original in nats an answer where its weights are there, and the score of its student where one
    was trained."""

    teacher: str
    target: str
    task: str
    reward: str
    eta: float
    beta: float
    difference: float
    way: str
    share: float
    score: float
    student: float | None = None
    kl: float | None = None


def of_cells(path: Path) -> Iterator[Calibration]:
    for line in path.read_text(encoding="utf-8").splitlines():
        cell = json.loads(line)
        if cell["reward"] not in get_args(KnobReward) or cell["reward"] == PER_TOKEN or not cell["eta"]:
            continue
        right = {
            who: np.mean([int(digit) for digit in cell[f"of_{who}"]["right"]]) / 4 for who in ("teacher", "student")
        }
        yield Calibration(
            *(cell["teacher"], cell["student"], "math", cell["reward"], cell["eta"], BETA),
            *(cell["turned"]["difference"], EASY, cell["of_teacher"]["every_step"]),
            *(float(right["teacher"]), float(right["student"])),
        )


def of_run(path: Path) -> Iterator[Calibration]:
    run = load_run(path)
    config, result = run.config, run.result
    if config["reward"] == PER_TOKEN:
        raise SystemExit(f"{path}: its verdict is in nats a token, and the forecast is in nats an answer")
    scores = {row["task"]: row["after"] for row in result["fresh"] or result["guard"]}
    ways = {row["task"]: sorted(row["ways"], key=lambda way: str(way["way"])) for row in result["moved"]}
    for row in result["turned"]["tasks"] or [{**result["turned"], "task": config["tasks"][0]}]:
        task, way = row["task"], (ways[row["task"]] or [{"way": "", "after": float("nan")}])[0]
        yield Calibration(
            *(config["teacher"], config["target"], task, config["reward"], config["eta"], config["beta"]),
            *(row["difference"], way["way"], way["after"], scores[task]),
            kl=spent(config["teacher"], str(path / "model"), task),
        )


@cache
def model(name: str) -> LanguageModel:
    return load_model(name)


@cache
def drawn(name: str, task: str, problems: int, samples: int) -> Measured:
    asked = get_task(task)
    return sample_and_grade(model(name), asked, asked.examples("train", problems, seed=0), samples, seed=0)


@cache
def scored(teacher: str, target: str, task: str, reward: KnobReward, problems: int, samples: int) -> KnobSamples:
    config = DiagnoseConfig(teacher=teacher, student=target, knob_samples=samples, knob_reward=reward)
    asked, answers = get_task(task), drawn(teacher, task, problems, samples)
    ways = ways_of(asked, answers.examples, answers, answers)  # of which the teacher's are read
    read = knob_samples(asked, model(teacher), model(target), answers, ways, config, Journal())
    assert isinstance(read, KnobSamples), read.why
    return read


def spent(original: str, calibrated: str, task: str, problems: int = 150) -> float:
    """KL(calibrated ‖ original) in nats an answer, by four of the calibrated teacher's answers to each problem."""
    answers = drawn(calibrated, task, problems, 4)
    asked = [get_task(task).messages(example) for example in answers.examples for _ in range(4)]
    ids = [sample.token_ids for row in answers.samples for sample in row]
    own, before = (token_logprobs(model(name), asked, ids) for name in (calibrated, original))
    return float(np.mean([float(a.sum() - b.sum()) for a, b in zip(own, before, strict=True)]))


def own_answers(target: str, task: str, problems: int) -> OwnAnswers:
    import torch

    answers = drawn(target, task, problems, 16)
    rows = [
        (i, one.text, right)
        for i, (samples, rights) in enumerate(zip(answers.samples, answers.right, strict=True))
        for one, right in zip(samples, rights, strict=True)
    ]
    return OwnAnswers(
        task=task,
        prompt_A=torch.tensor([i for i, _, _ in rows]),
        right_A=torch.tensor([right for _, _, right in rows]),
        style_A=[get_task(task).style(text) for _, text, _ in rows],
    )


def forecast(one: Calibration, problems: int, samples: int) -> dict[Scope, dict[str, Any]]:
    read = scored(one.teacher, one.target, one.task, one.reward, problems, samples)
    read = replace(read, etas=(one.eta,), beta=one.beta)
    return {row["scope"]: row for row in knob_rows(Knob(read, own_answers(one.target, one.task, problems)))}


def share(row: dict[str, Any], way: str) -> float:
    return float(next((one["after"] for one in row["ways"] if one["way"] == way), float("nan")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=Path, nargs="*", default=[])
    parser.add_argument("--runs", type=Path, nargs="*", default=[])
    parser.add_argument("--problems", type=int, default=150)
    parser.add_argument("--samples", type=int, default=8)
    args = parser.parse_args()
    keep_freed_memory()
    measured = [one for path in args.cells for one in of_cells(path)]
    measured += [one for path in args.runs for one in of_run(path)]
    head = ["teacher → target, task, reward, η", "log-ratio: ways", "answers", "measured", "way", "ways", "answers"]
    head += ["measured", "KL: ways", "answers", "measured", "teacher: ways", "measured", "student: ways", "measured"]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    rows: list[tuple[Calibration, dict[Scope, dict[str, Any]]]] = []
    for one in measured:
        rows.append((one, told := forecast(one, args.problems, args.samples)))
        ways, answers = told["ways"], told["answers"]
        cells = [
            f"{one.teacher} → {one.target}, {one.task}, {one.reward}, {one.eta:+g}",
            *(f"{value:+.2f}" for value in (ways["difference"], answers["difference"], one.difference)),
            one.way,
            *(f"{100 * value:.0f}" for value in (share(ways, one.way), share(answers, one.way), one.share)),
            *("–" if value is None else f"{value:.2f}" for value in (ways["kl"], answers["kl"], one.kl)),
            *(f"{100 * value:.1f}" for value in (ways["score_after"], one.score)),
            *("–" if value is None else f"{100 * value:.1f}" for value in (ways["student_after"], one.student)),
        ]
        print("| " + " | ".join(cells) + " |", flush=True)
    for reward in dict.fromkeys(one.reward for one in measured):
        for scope in get_args(Scope):
            here = [(told[scope]["difference"], one.difference) for one, told in rows if one.reward == reward]
            error = np.mean([abs(a - b) for a, b in here])
            print(
                f"\n{reward}, {scope}: rank correlation {spearman(*zip(*here, strict=True)):.2f} over {len(here)}, ",
                end="",
            )
            print(f"mean absolute error {error:.2f} nats")


if __name__ == "__main__":
    main()
