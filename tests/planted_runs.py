"""Run directories that hold the planted results, and a page read back."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from distillknob.runs.run import Run
from distillknob.verdicts.teachers import teacher_key
from planted_attacks import attack_result
from planted_comparison import comparison
from planted_results import CHANCE, HOSTILE, TASKS, demo_result, diagnose_result, moved_task, student, teacher


def write_run(
    path: Path, stage: str, result: dict[str, Any] | None, metrics: list[dict[str, Any]] | None = None
) -> Path:
    etas = {"eta_distillable": -0.5, "eta_undistillable": 0.5} if stage == "demo" else {}
    run = Run.open(path, stage, {"seed": 0, "teacher": "zoo/teacher", "note": HOSTILE, **etas})
    for row in metrics or []:
        run.log(**row)
    if result is not None:
        run.finish(result)
    return path


def calibrate_run(path: Path, eta: float, outcome: str = "finished") -> Path:
    metrics = [
        {
            "step": step,
            "task_score": 0.99 - 0.0005 * step * (eta > 0),
            "task_score/math": 0.99,
            "task_score/qa": 0.97,
            "anchor_kl": 0.002 * step if step != 20 else math.nan,
            "log_ratio": 3.2 + eta * step / 10,
            "anchor_beta": 0.1 if step < 20 else 0.2,
            "eta": eta,
            "entropy": 0.5,
        }
        for step in range(0, 45, 5)
    ]
    result = {
        "stage": "calibrate",
        "eta": eta,
        "outcome": outcome,
        "reason": None if outcome == "finished" else "the task score fell below its tolerance",
        "steps": 40,
        "kept_step": 40 if outcome == "finished" else 25,
        "final_beta": 0.2,
        "anchor_kl": 0.08,
        "log_ratio": 3.2 + eta * 4,
        "tolerance": 0.01,
        "guard": [{"task": "math", "before": 0.99, "after": 0.985, "difference": -0.005, "interval": [-0.01, 0.0]}],
        "events": [{"step": 20, "what": "β doubled to 0.2"}],
        "moved": [moved_task()],
    }
    return write_run(path, "calibrate", result, metrics)


def distill_run(path: Path, method: str, end: float) -> Path:
    metrics: list[dict[str, Any]] = []
    for step in range(0, 301, 10):
        metrics.append({"step": step, "loss": 2.0 * math.exp(-step / 100), "grad_norm": 1.0})
        if step % 50 == 0:
            metrics.append({"step": step, "eval/math": 0.55 + (end - 0.55) * step / 300, "eval/qa": 0.6})
    result = {
        "stage": "distill",
        "method": method,
        "steps": 300,
        "tokens": 1_240_000,
        "learning_rate": 0.001,
        "final_loss": 0.1,
    }
    return write_run(path, "distill", result, metrics)


def demo_run(path: Path) -> Path:
    """A whole demo, made the way the stages make it: the inner runs first, then the demo's own result."""
    run = Run.open(path, "demo", {"seed": 0, "note": HOSTILE})
    write_run(path / "diagnose", "diagnose", diagnose_result())
    calibrate_run(path / "eta-0.5" / "calibrate", -0.5)
    calibrate_run(path / "eta+0.5" / "calibrate", 0.5, outcome="stopped")
    for name, end in (("original", 0.52), ("eta-0.5", 0.8), ("eta+0.5", 0.21)):
        distill_run(path / f"{name}/distill-gkd", "gkd", end)
    distill_run(
        path / "original" / "distill-sft_verified", "sft_verified", 0.5
    )  # there, though the result doesn't name it
    run.finish(demo_result())
    return path


def diagnose_run(path: Path) -> Path:
    return write_run(path, "diagnose", diagnose_result())


def evaluate_run(path: Path) -> Path:
    cells = [student("original", "gkd", task, 0.5) for task in TASKS]
    return write_run(path, "evaluate", {"stage": "evaluate", "models": [{"model": HOSTILE, "tasks": cells}]})


def sweep_run(path: Path) -> Path:
    etas, seeds = [-1.0, -0.5, 0.0, 0.5, 1.0], [0, 1, 2]
    students = [student("none", "none", task, 0.55, seed=seed) for task in TASKS for seed in seeds]
    teachers = []
    for eta in etas:
        name = teacher_key(eta)
        for seed in seeds:
            for index, method in enumerate(("gkd", "sft_verified")):
                value = 0.55 - 0.3 * eta + 0.02 * seed - 0.05 * index
                students += [student(name, method, task, value, seed=seed) for task in TASKS]
            teachers += [{**teacher(name, eta, task, 0.99, None), "seed": seed} for task in TASKS]
    return write_run(
        path,
        "sweep",
        {
            "stage": "sweep",
            "etas": etas,
            "seeds": seeds,
            "tasks": list(TASKS),
            "chance": CHANCE,
            "teachers": teachers,
            "students": students,
            "knob": [{"method": "gkd", "task": "math", "spearman": -0.98, "seed": seed} for seed in seeds],
            "cells": [
                {
                    "eta": eta,
                    "seed": seed,
                    "path": f"cell-{eta}-{seed}",
                    "state": "missing" if seed == 2 and eta == 1 else "done",
                }
                for eta in etas
                for seed in seeds
            ],
        },
    )


MAKERS: dict[str, Callable[[Path], Path]] = {
    "demo": demo_run,
    "sweep": sweep_run,
    "diagnose": diagnose_run,
    "calibrate": lambda path: calibrate_run(path, 0.5),
    "distill": lambda path: distill_run(path, "gkd", 0.7),
    "evaluate": evaluate_run,
    "compare": lambda path: write_run(path, "compare", comparison()),
    "attack": lambda path: write_run(path, "attack", dict(attack_result(path.parent / "attacked"))),
}


SECTIONS = {
    "demo": ["result", "traps", "forecast", "calibration", "learning", "failures", "samples", "provenance"],
    "sweep": ["knob", "result", "failures", "cells", "provenance"],
    "diagnose": ["traps", "forecast", "provenance"],
    "calibrate": ["calibration", "provenance"],
    "distill": ["learning", "provenance"],
    "evaluate": ["result", "provenance"],
    "compare": ["result", "rates", "missing", "provenance"],
    "attack": ["result", "arms", "doubts", "provenance"],
}


class Page(HTMLParser):
    """What a page holds: its elements, whether they close in order, its text, and what it would load."""

    VOID = frozenset({"meta", "br", "hr"})

    def __init__(self, path: Path):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: Counter[str] = Counter()
        self.ids: list[str] = []
        self.sections: list[str] = []
        self.headings: list[int] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.svgs: list[Counter[str]] = []
        self.policy = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        given = dict(attrs)
        self.sections += [given["id"] or ""] if tag == "section" else []
        self.headings += [int(tag[1])] if tag in ("h1", "h2", "h3", "h4") else []
        self.ids += [given["id"] or ""] if "id" in given else []
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""
        assert not [key for key in given if key.startswith("on")], f"an event handler on {tag}"
        self.loads += [
            f"{tag} {key}={given[key]}" for key in ("src", "srcset", "data", "xlink:href", "poster") if key in given
        ]
        if "href" in given:
            (self.links if tag == "a" else self.loads).append(str(given["href"]))
        if tag == "svg":
            self.svgs.append(Counter({"swatch": given.get("class") == "swatch"}))
        if "svg" in self.open and {"mark", "line", "bar"} & set((given.get("class") or "").split()):
            self.svgs[-1]["marks"] += 1
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data
