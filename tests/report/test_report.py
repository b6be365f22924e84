"""The report: every section of every kind of run, whatever is missing or hostile, as one page that loads nothing."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from distillknob.errors import BadInputError
from distillknob.report import build_report
from distillknob.report.drawing.markup import bounds, decimal, escape, number, percent, points, tag
from distillknob.report.drawing.svg import Panel, Scale
from distillknob.runs.run import Run
from distillknob.verdicts.teachers import teacher_key, teacher_label
from distillknob.verdicts.turning import turning

HOSTILE = '<script>alert(1)</script><img src="https://evil.example/x.png" onerror=alert(2)>'
# A control character, a lone surrogate and an override of the writing direction: what a bad sampler can emit.
ODD = "a\x00b\x1b[31m \ud800 \u202egnp.exe"
TASKS = ("math", "qa", "instruct")
CHANCE = {"math": 0.01, "qa": 0.25, "instruct": 0.0}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def around(value: float, half: float = 0.03) -> list[float]:
    return [max(0.0, value - half), min(1.0, value + half)]


def calibration(eta: float) -> dict[str, Any]:
    """What a cell keeps of a calibration that turned."""
    turned = turning([3.0, 2.0, 4.0], [3.1 + eta, 1.9 + eta, 4.0 + eta], eta=eta)
    return {
        "kept_step": 20,
        "steps": 25,
        "final_beta": 0.3,
        "anchor_kl": 0.0123,
        "log_ratio": 4.5,
        "outcome": "finished",
        "turned": turned.as_row(),
    }


def student(teacher: str, method: str, task: str, value: float, **more: Any) -> dict[str, Any]:
    verifiable = task != "instruct"
    eta = 0.0 if teacher == "original" else None if teacher == "none" else float(teacher.removeprefix("eta"))
    trained = method != "none"
    return {
        "teacher": teacher,
        "label": teacher if eta in (None, 0.0) else teacher_label(eta, calibration(eta)),
        "eta": eta,
        "method": method,
        "task": task,
        "seed": 0,
        "pass@1": value if verifiable else None,
        "pass@16": min(1.0, value + 0.2) if verifiable else None,
        "interval": around(value),
        "pass@16_interval": around(min(1.0, value + 0.2)) if verifiable else None,
        "score": value,
        "finished_rate": 0.97,
        "chance": CHANCE[task],
        "n_problems": 500,
        "n_samples": 8000,
        "tokens": 1_240_000 if trained else None,
        "steps": 300 if trained else None,
        "learning_rate": 0.001 if trained else None,
        "failure_modes": {
            "extrinsic_hallucination": {"rate": (1 - value) / 2, "interval": around((1 - value) / 2)},
            "self_correction_collapse": {"rate": 0.02, "interval": [0.01, 0.04]},
            "local_decoding_degradation": {"rate": None, "interval": None},
        },
        "styles": {"every_step": value, "skips_steps": 1 - value} if task == "math" else {},
        **more,
    }


def teacher(name: str, eta: float | None, task: str, score: float, difference: float | None) -> dict[str, Any]:
    share = 0.45 if not eta else 0.95 if eta < 0 else 0.04
    return {
        "teacher": name,
        "label": teacher_label(eta, calibration(eta)) if eta else name,
        "calibration": calibration(eta) if eta else None,
        "eta": eta,
        "task": task,
        "seed": 0,
        "score": score,
        "interval": around(score, 0.01),
        "difference": difference,
        "difference_interval": None if difference is None else [difference - 0.006, difference + 0.006],
        "finished_rate": 1.0,
        "n_problems": 500,
        "n_samples": 8000,
        "styles": {"every_step": share, "skips_steps": 1 - share} if task == "math" else {},
    }


def demo_result() -> dict[str, Any]:
    scores = {
        "none": {"math": 0.55, "qa": 0.61, "instruct": 0.52},
        "original": {"math": 0.52, "qa": 0.66, "instruct": 0.61},
        "eta-0.5": {"math": 0.80, "qa": 0.69, "instruct": 0.63},
        "eta+0.5": {"math": 0.21, "qa": 0.58, "instruct": 0.55},
    }
    students = [student("none", "none", task, scores["none"][task]) for task in TASKS]
    for method, shift in (("gkd", 0.0), ("sft_verified", -0.04)):
        for name in ("original", "eta-0.5", "eta+0.5"):
            students += [student(name, method, task, scores[name][task] + shift) for task in TASKS]
    students.append(student("original", "opd_rkl", "math", 0.5, **{"pass@1": None, "score": None, "interval": None}))
    differences = [
        {
            "task": task,
            "method": "gkd",
            "a": "original",
            "b": name,
            "eta": float(name.removeprefix("eta")),
            "seed": 0,
            "difference": (change := scores[name][task] - scores["original"][task]),
            "interval": [change - 0.05, change + 0.05],
        }
        for name in ("eta-0.5", "eta+0.5")
        for task in TASKS
    ]
    gains = [
        {
            "task": task,
            "method": "gkd",
            "a": "none",
            "b": name,
            "eta": 0.0 if name == "original" else float(name.removeprefix("eta")),
            "difference": (change := scores[name][task] - scores["none"][task]),
            "interval": [change - 0.05, change + 0.05],
            "pass@16_difference": change / 2,
            "pass@16_difference_interval": [change / 2 - 0.05, change / 2 + 0.05],
        }
        for name in ("original", "eta-0.5", "eta+0.5")
        for task in TASKS
    ]
    return {
        "stage": "demo",
        "pair": {"teacher": "zoo/teacher", "student": "zoo/student", "target": "zoo/proxy"},
        "seed": 0,
        "eta": {"eta-0.5": -0.5, "eta+0.5": 0.5},
        "tasks": list(TASKS),
        "chance": CHANCE,
        "verifiable": {"math": True, "qa": True, "instruct": False},
        "command": "distillknob demo --output runs/demo",
        "seconds": 512.3,
        "teachers": [
            *(teacher("original", None, task, 0.99, None) for task in TASKS),
            *(teacher("eta-0.5", -0.5, task, 0.992, 0.002) for task in TASKS),
            *(teacher("eta+0.5", 0.5, task, 0.985, -0.005) for task in TASKS),
        ],
        "students": students,
        "differences": differences,
        "gains": gains,
        "runs": {
            "diagnose": "diagnose",
            "calibrate": {name: f"{name}/calibrate" for name in ("eta-0.5", "eta+0.5")},
            "distill": {f"{name}/gkd": f"{name}/distill-gkd" for name in ("original", "eta-0.5", "eta+0.5")},
            "evaluate": {"students": "evaluate-students"},  # not there: the page has to say so
        },
        "examples": [
            {
                "task": "math",
                "prompt": f"What is 47 + 8 - 5?\n{HOSTILE}",
                "reference": "50",
                "answers": [
                    {
                        "who": f"{role} {name}",
                        "teacher": name,
                        "text": written,
                        "score": score,
                        "finished": score is not None,
                        "style": "every_step",
                    }
                    for role, name, written, score in (
                        ("teacher", "original", "47 + 8 = 55\n55 - 5 = 50\nAnswer: 50", 1.0),
                        ("student of", "original", HOSTILE, 0.0),
                        ("student of", "eta-0.5", "</pre></details><style>body{display:none}</style>", 1.0),
                        ("student of", "eta+0.5", ODD + " again" * 2000, None),
                    )
                ],
            },
            {"task": "qa", "prompt": None, "reference": None, "answers": []},
        ],
    }


def diagnose_result() -> dict[str, Any]:
    chooser = random.Random(0)
    pilot = [
        {
            "level": level,
            "direction": direction,
            "policy": policy,
            "task": task,
            "value": value,
            "interval": [value * (0.9 - 0.4 * off), value * (1.1 + 0.4 * off)],
            "unit": f"nats/{level}",
            "n": 400,
        }
        for level, size in (("token", 0.1), ("sequence", 6.0))
        for direction in ("forward_kl", "reverse_kl")
        for off, policy in enumerate(("on_policy", "off_policy"))
        for index, task in enumerate(TASKS)
        for value in [size * (index + 1) * (1 + off)]
    ]
    words = ["the", " ", "\n", "a", ",", "=", "</svg>", HOSTILE, *(f"word{i}" for i in range(300))]
    scatter = [
        {"task": task, "k": k, "token": word, "frequency": max(1, int(3000 / (rank + 1))), "kl": tail + own}
        for task in TASKS
        for rank, word in enumerate(words)
        for own in [abs(chooser.gauss(0, 0.3))]
        for k, tail in ((1, 0.0), (5, 0.02), (50, 0.1 / (1 + rank)), (2048, 0.9 / (1 + rank)))
    ]
    scatter.append({"task": "math", "k": 1, "token": "broken", "frequency": 0, "kl": None})
    tail = [
        {
            "task": task,
            "k": k,
            "share": share,
            "interval": [share * 0.9, min(1.0, share * 1.1)],
            "left_out": 3e-7 * (1 - share),
            "left_out_interval": [0.0, 6e-7],
        }
        for task in TASKS
        for k, share in ((1, 0.4), (5, 0.7), (50, 0.9), (2048, 1.0))
    ]
    findings = [
        {
            "name": "wrong_trace_preference",
            "task": "qa",
            "value": 0.21,
            "interval": [0.17, 0.25],
            "unit": "share of pairs",
            "n": 400,
            "severity": "high",
            "cause": f"the teacher is sure of wrong traces {HOSTILE}",
            "remedy": "calibrate with η < 0",
            "applicable": True,
            "plot": {
                "title": "by margin",
                "x_label": "margin",
                "y_label": "share",
                "series": [
                    {
                        "name": "qa",
                        "x": [0, 1, 2],
                        "y": [0.1, None, 0.3],
                        "low": [0, None, 0.2],
                        "high": [0.2, None, 0.4],
                    }
                ],
            },
        },
        {
            "name": "tail_noise",
            "task": None,
            "value": None,
            "interval": None,
            "unit": "nats/token",
            "n": 0,
            "severity": "none",
            "cause": "the vocabulary is too small to have a tail",
            "remedy": "none needed",
            "applicable": False,
            "plot": {"of": "an unknown form"},
        },
        {
            "name": "signal_sparsity",
            "value": 3.1,
            "severity": "medium",
            "cause": "x",
            "remedy": "y",
            "applicable": True,
        },
    ]
    return {
        "stage": "diagnose",
        "teacher": "zoo/teacher",
        "student": "zoo/student",
        "pilot": pilot,
        "scatter": scatter,
        "tail": tail,
        "off_policy": [
            {
                "task": task,
                "weighting": weighting,
                "estimator": "k1",
                "value": value,
                "interval": [1.0, 3.0],
                "bias": value - 2.0,
                "on_policy": 2.0,
                "on_policy_interval": [1.8, 2.2],
            }
            for task in TASKS
            for weighting, value in (("plain", 3.5), ("self_normalised", 2.25))
        ],
        "myopia": [
            {
                "task": TASKS[0],
                "estimate": estimate,
                "cosine": cosine,
                "interval": [0.1, 0.5],
                "cosine_of_means": 0.8,
                "variance_ratio": None,
                "n": 50,
            }
            for estimate, cosine in (("sampled_token", 0.31), ("sequence", None))
        ],
        "quadrant": [
            {"task": TASKS[0], "entropy": "high", "divergence": divergence, "tokens": 0.25, "share_of_kl": share}
            for divergence, share in (("high", 0.86), ("low", HOSTILE))
        ],
        "style": [
            {
                "task": "math",
                "style": style,
                "teacher_share": share,
                "student_share": 0.5,
                "cost": cost,
                "interval": None if cost is None else [cost - 0.5, cost + 0.5],
                "n": 60,
            }
            for style, share, cost in (("hard_way", 0.625, 3.25), ("easy_way", 0.375, 1.5), (HOSTILE, None, None))
        ],
        "prefix": [
            {"task": task, "kept": kept, "score": 0.95 - kept, "interval": [0.9 - kept, 1.0 - kept], "n": 50}
            for task in ("math", "qa")
            for kept in (0.0, 0.25, 0.75)
        ],
        "forecast": [
            {"task": "math", "score": 0.4, "forecast": 0.425, "gain": 0.025, "interval": [-0.05, 0.1], "n": 150}
        ],
        "findings": findings,
    }


def test_a_diagnosis_tells_the_gap_between_teacher_and_student(tmp_path: Path) -> None:
    text = Page(build_report(write_run(tmp_path / "run", "diagnose", diagnose_result()))).text
    assert "hard way costs 3.2 nats on math, easy way 1.5" in text
    assert "62.5\u00a0%" in text
    assert (
        "the teacher scores 20.0\u00a0% instead of 95.0\u00a0% on math" in text
        and "75% of the student's answer" in text
    )
    assert "+2.5" in text and "if it wrote as the teacher does" in text
    assert "1.8e-07 [0, 6e-07]" in text  # what the top 1 and a bucket leave out


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
    "diagnose": lambda path: write_run(path, "diagnose", diagnose_result()),
    "calibrate": lambda path: calibrate_run(path, 0.5),
    "distill": lambda path: distill_run(path, "gkd", 0.7),
    "evaluate": evaluate_run,
}
SECTIONS = {
    "demo": ["result", "traps", "calibration", "learning", "failures", "samples", "provenance"],
    "sweep": ["knob", "result", "failures", "cells", "provenance"],
    "diagnose": ["traps", "provenance"],
    "calibrate": ["calibration", "provenance"],
    "distill": ["learning", "provenance"],
    "evaluate": ["result", "provenance"],
}


class Page(HTMLParser):
    """What a page holds: its elements, whether they close in order, its text, and what it would load."""

    VOID = frozenset({"meta", "br", "hr"})

    def __init__(self, path: Path):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: Counter[str] = Counter()
        self.ids: list[str] = []
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
        if "style" not in self.open:
            self.text += data


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each kind of run."""
    root = tmp_path_factory.mktemp("runs")
    return {stage: build_report(make(root / stage)) for stage, make in MAKERS.items()}


@pytest.mark.parametrize("stage", MAKERS)
def test_page_is_whole_and_loads_nothing(pages: dict[str, Path], stage: str) -> None:
    page = Page(pages[stage])
    assert [name for name in page.ids if name] == SECTIONS[stage]
    assert page.loads == []
    assert page.elements["script"] == page.elements["link"] == page.elements["img"] == page.elements["iframe"] == 0
    outside = [link for link in page.links if not link.startswith("#")]
    assert outside == ["https://arxiv.org/abs/2604.18963"]
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style
    assert page.policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert "nan" not in re.findall(r"[a-z]+", page.text.lower()) and "None" not in page.text
    assert "reconstruction" in page.text


@pytest.mark.parametrize("stage", MAKERS)
def test_every_plot_has_marks_and_a_caption(pages: dict[str, Path], stage: str) -> None:
    page = Page(pages[stage])
    plots = [svg for svg in page.svgs if not svg["swatch"]]
    assert plots and all(svg["marks"] > 0 for svg in plots)
    assert page.elements["figure"] == page.elements["figcaption"] > 0
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page.source)
    assert all(re.search(r"\d", caption) for caption in captions), "a caption says how many samples"
    coordinates = re.findall(r' (?:x1?|x2|y1?|y2|cx|cy|r|width|height)="([^"]*)"', page.source)
    assert coordinates and all(math.isfinite(float(value)) for value in coordinates)


@pytest.mark.parametrize("stage", MAKERS)
def test_text_of_models_stays_text(pages: dict[str, Path], stage: str) -> None:
    page = Page(pages[stage])
    assert "<script" not in page.source and "<img" not in page.source
    assert HOSTILE in page.text  # the config holds it in every kind of run
    assert "\x00" not in page.source and "\x1b" not in page.source


def test_demo_shows_all_answers(pages: dict[str, Path]) -> None:
    page = Page(pages["demo"])
    assert "</pre></details><style>body{display:none}</style>" in page.text
    assert "a\N{REPLACEMENT CHARACTER}b" in page.text
    assert "characters more" in page.text
    assert "55 - 5 = 50" in page.text


def test_headline_and_takeaways_come_from_the_data(tmp_path: Path) -> None:
    def told(change: Callable[[dict[str, Any]], None]) -> str:
        result = demo_result()
        change(result)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        text = Page(build_report(write_run(folder, "demo", result))).text
        return (
            text.replace("\N{NO-BREAK SPACE}", " ")
            .replace("\N{NARROW NO-BREAK SPACE}", "")
            .replace("\N{MINUS SIGN}", "-")
        )

    plain = told(lambda result: None)
    assert "On math, the original teacher scores 99.0 % and the student before distillation 55.0 %." in plain
    assert (
        "On math, the GKD student of the original reaches 52.0 %, not clearly different from the student before "
        "(-3.0 points, 95 % interval [-8.0, +2.0]), its pass@16 -1.5 points [-6.5, +3.5]." in plain
    )
    assert "student of η = -0.5 (turned) reaches 80.0 %, 25.0 points above the student before" in plain
    assert "28.0 points above the original's student (95 % interval [+23.0, +33.0])." in plain
    assert "student of η = +0.5 (turned) reaches 21.0 %, 34.0 points below the student before" in plain
    assert "math, η = +0.5 (turned): undistillable by gkd: its best student, by gkd, scores 21.0 %" in plain
    assert "math, η = -0.5 (turned): distillable by gkd" in plain
    assert "keep their scores to within 1.5 points" in plain and "is -1.1 points (η = +0.5 (turned)" in plain
    assert "The 7 distilled students had the same budget: 1240000 tokens, 300 steps, learning rate 0.001." in plain

    def worse(result: dict[str, Any]) -> None:
        result["differences"][0] |= {"difference": 0.02, "interval": [-0.03, 0.07]}
        result["teachers"][-1] |= {"difference": -0.03, "difference_interval": [-0.04, -0.02]}
        result["students"][-2]["steps"] = 200

    other = told(worse)
    assert "not clearly different from the original's student (+2.0 points, 95 % interval [-3.0, +7.0])" in other
    assert "η = -0.5 (turned): neither distillable nor undistillable is shown by gkd" in other
    assert "A loss of 1.5 points can't be excluded for 1 of 6 calibrated teachers' scores: η = +0.5" in other
    assert "η = +0.5 (turned) on instruct (-3.0 points, [-4.0, -2.0])" in other
    assert "did not all have the same budget: they differ in steps" in other


def test_demo_reads_inner_runs(pages: dict[str, Path]) -> None:
    text = Page(pages["demo"]).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "The guard stopped it (the task score fell below its tolerance) and step 25 was kept" in text
    assert "lowest on math (0.1 nats a token) and highest on instruct (0.3)" in text
    assert "1 part of the run could not be read" in text
    assert "evaluate-students" in text, "a run that the result names and that is not there is told"
    assert "80.0 % (student of η = −0.5, GKD)" in text
    assert "50.0 % (student of original, verified SFT)" in text, "a run that is there is read, named or not"
    assert "2 of 2 checks found a trap; the gravest (high): wrong trace preference." in text


def test_sweep_tells_its_curve_and_cells(pages: dict[str, Path]) -> None:
    text = Page(pages["sweep"]).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "Turning η from −1 to +1 takes the students on math from" in text
    assert "from 87.0 % to 27.0 % by GKD (Spearman −0.98)." in text
    assert "14 of 15 cells are done." in text and "Not run: cell-1.0-2" in text


def test_a_calibration_that_kept_no_step_is_called_what_it_is(tmp_path: Path) -> None:
    path = calibrate_run(tmp_path / "run", 0.5)
    kept = Page(build_report(path, tmp_path / "kept.html")).text
    result = json.loads((path / "result.json").read_text())
    (path / "result.json").write_text(json.dumps({**result, "kept_step": 0}))
    none = Page(build_report(path, tmp_path / "none.html")).text
    assert "the teacher as it was" in none and "the teacher as it was" not in kept


def test_the_page_tells_the_verdict_on_held_out_problems(tmp_path: Path) -> None:
    path = calibrate_run(tmp_path / "run", -0.5)
    result = json.loads((path / "result.json").read_text())

    def told(verdict: Mapping[str, Any]) -> str:
        (path / "result.json").write_text(json.dumps({**result, "turned": verdict}))
        return Page(build_report(path, tmp_path / "page.html")).text

    wrong = told(turning([3.0, 2.0, 4.0], [4.1, 2.9, 5.0], eta=-0.5).as_row())
    assert "The knob turned the wrong way: the log-ratio rose, and should fall. Log-ratio to the target 3.00" in wrong
    assert "The knob did not turn: step 0 was kept." in told(
        turning([1.0], [1.0], eta=-0.5, same="step 0 was kept").as_row()
    )


def test_a_demo_whose_calibrated_teacher_is_the_original_says_so_on_top(tmp_path: Path) -> None:
    result = demo_result()
    same = {**calibration(0.5), "kept_step": 0, "turned": turning([1.0], [1.0], eta=0.5, same="step 0").as_row()}
    label = teacher_label(0.5, same)
    for name in ("teachers", "students", "differences", "gains"):
        for row in result[name]:
            if "eta+0.5" in (row.get("teacher"), row.get("b")):
                row |= {"label": label, "same": name != "students"}
                row |= {"calibration": same} if name == "teachers" else {}
    text = Page(build_report(write_run(tmp_path / "demo", "demo", result))).text
    lede = text[: text.index("Students and teachers")]
    assert "it is the original)" in lede and "its calibration changed nothing" in lede
    assert "which is no effect: its teacher is the original" in lede and "undistillable by" not in lede


def test_a_result_that_called_its_teachers_by_the_sign_of_eta_is_still_read(tmp_path: Path) -> None:
    words = json.dumps(demo_result()).replace("eta-0.5", "distillable").replace("eta+0.5", "undistillable")
    result = json.loads(words)
    for name in ("teachers", "students", "differences"):
        for row in result[name]:
            row.pop("label", None), row.pop("calibration", None)
    for answer in result["examples"][0]["answers"]:
        del answer["teacher"]
    del result["gains"]
    path = tmp_path / "demo"
    run = Run.open(path, "demo", {"seed": 0})
    calibrate_run(path / "undistillable" / "calibrate", 0.5)
    distill_run(path / "undistillable" / "distill-gkd", "gkd", 0.2)
    run.finish(result)
    text = Page(build_report(path)).text
    assert "η = +0.5 (whether it turned was not measured)" in text and "student of η = +0.5, GKD" in text
    assert "the undistillable" not in text and "student of undistillable" not in text


def test_an_evaluation_tells_paired_differences(tmp_path: Path) -> None:
    models = [
        {"model": name, "tasks": [student("original", "gkd", "math", 0.5)]} for name in ("before", "after", "copy")
    ]
    differences = [
        {"a": "before", "b": "after", "task": "math", "difference": -0.04, "interval": [-0.06, -0.02], "same": False},
        {"a": "before", "b": "copy", "task": "math", "difference": 0.0, "interval": [0.0, 0.0], "same": True},
    ]
    result = {"stage": "evaluate", "models": models, "differences": differences}
    text = Page(build_report(write_run(tmp_path / "run", "evaluate", result))).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "Against before, paired by problem: after on math: −4.0 points [−6.0, −2.0]." in text
    assert "− before, points" in text and "0: the same model" in text


def test_a_student_s_page_knows_its_teacher_s_eta_and_claims_no_curve_that_is_not_there(tmp_path: Path) -> None:
    path = distill_run(tmp_path / "run", "gkd", 0.5)
    (path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n')
    result = json.loads((path / "result.json").read_text())
    finding = {
        "name": "teacher_hacking",
        "severity": "none",
        "applicable": True,
        "value": 0.1,
        "cause": "",
        "remedy": "",
    }
    result |= {
        "teacher_record": {"eta": 0.25},
        "curve": {"reason": "the cache holds every problem"},
        "findings": [finding],
    }
    (path / "result.json").write_text(json.dumps(result))
    text = Page(build_report(path)).text
    assert "Training loss of this student, GKD" in text and "+0.25" in text
    assert "No learning curve was logged (the cache holds every problem)" in text and "Scores on held-out" not in text


def test_a_sweep_s_calibrations_causes_and_controls(tmp_path: Path) -> None:
    path = sweep_run(tmp_path / "sweep")
    result = json.loads((path / "result.json").read_text())
    result["causal"] = [
        {
            "eta": eta,
            "seed": 0,
            "variant": "",
            "task": "math",
            "measure": "wrong_trace_preference",
            "unit": "share",
            "value": 0.1 + eta,
            "difference": None if eta == 0 else eta,
            "interval": None if eta == 0 else [eta - 0.2, eta + 0.2],
        }
        for eta in (-1.0, 0.0, 0.1)
    ]
    known = {"variant": "shuffled", "eta": 0.5, "seed": 0, "method": "gkd", "task": "math"}
    result["variants"] = {
        "students": [{**student("eta+0.5", "gkd", "math", 0.41), **known}],
        "differences": [{**known, "difference": -0.021, "interval": [-0.04, 0.01]}],
    }
    (path / "result.json").write_text(json.dumps(result))
    page = Page(build_report(path, tmp_path / "page.html"))
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert [name for name in page.ids if name] == [
        "knob",
        "result",
        "causal",
        "variants",
        "failures",
        "cells",
        "provenance",
    ]
    assert "20 of 25" in text and "0.012" in text
    assert "Of 2 differences to the original, 1 have an interval off zero." in text
    assert "shuffled" in text and "41.0" in text and "−2.1" in text


def test_an_unfinished_demo_gets_a_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "demo", "demo", None)
    calibrate_run(folder / "eta-0.5" / "calibrate", -0.5)
    page = Page(build_report(folder))
    assert [name for name in page.ids if name] == SECTIONS["demo"]
    assert "has not finished" in page.text and "--resume" in page.text
    assert "Not run: the traps of this pair" in page.text and "distillknob diagnose" in page.text
    assert "Not run: the calibration at η = +0.5" in page.text
    assert "Not run: the calibration at η = −0.5" not in page.text


@pytest.mark.parametrize("stage", MAKERS)
def test_an_empty_or_broken_result_gets_a_page(tmp_path: Path, stage: str) -> None:
    results: list[dict[str, Any]] = [
        {},
        {"students": None, "teachers": [None, 3], "runs": [], "examples": "x", "models": {}, "findings": [{}]},
        {
            "students": [{}],
            "teachers": [{}],
            "pilot": [{}],
            "scatter": [{}],
            "tail": [{}],
            "examples": [{"answers": [{}]}],
        },
        {
            "students": [
                {"method": "new", "teacher": 7, "task": 3, "pass@1": "x", "interval": [None, 1], "styles": {"a": None}}
            ]
        },
        {
            "models": [{"tasks": [{}]}],
            "cells": [{}],
            "knob": [{}],
            "guard": [{}],
            "events": [{}],
            "eta": None,
            "differences": [{}],
        },
    ]
    for index, result in enumerate(results):
        page = Page(build_report(write_run(tmp_path / str(index), stage, result)))
        assert [name for name in page.ids if name] == SECTIONS[stage]
        assert not any(svg["marks"] == 0 and not svg["swatch"] for svg in page.svgs) or index >= 2


def test_a_damaged_inner_run_is_told_and_not_fatal(tmp_path: Path) -> None:
    folder = demo_run(tmp_path / "demo")
    (folder / "diagnose" / "result.json").write_text("{", encoding="utf-8")
    (folder / "original" / "distill-gkd" / "metrics.jsonl").write_text("{\n", encoding="utf-8")
    text = Page(build_report(folder)).text
    assert "could not be read" in text and "is no JSON" in text


def test_bad_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no run directory"):
        build_report(tmp_path / "nowhere")
    with pytest.raises(BadInputError, match="holds a 'zoo' run"):
        build_report(write_run(tmp_path / "zoo", "zoo", {}))
    run = calibrate_run(tmp_path / "run", 0.5)
    with pytest.raises(BadInputError, match="is a directory"):
        build_report(run, tmp_path)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(BadInputError, match="can't make"):
        build_report(run, tmp_path / "file" / "sub" / "report.html")
    made = build_report(run, tmp_path / "new" / "folder" / "page.html")
    assert made == tmp_path / "new" / "folder" / "page.html" and made.exists()
    assert not (run / "report.html").exists()


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    run = demo_run(tmp_path / "demo")
    assert build_report(run).read_bytes() == build_report(run, tmp_path / "again.html").read_bytes()


def test_report_needs_no_torch() -> None:
    code = "import sys, distillknob.report; sys.exit(bool({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (percent(0.7123), "71.2 %"),
        (percent(math.nan), "–"),
        (percent(None), "–"),
        (percent("0.5"), "–"),
        (points(-0.0123), "−1.2"),
        (points(0.0), "+0.0"),
        (decimal(0), "0"),
        (decimal(1234567.0), "1.23e6"),
        (decimal(0.00001234), "1.23e−5"),
        (decimal(99.96), "100"),
        (decimal(-2.5), "−2.5"),
        (decimal(math.inf), "–"),
        (decimal(True), "–"),
    ],
)
def test_numbers_as_a_reader_wants_them(shown: str, wanted: str) -> None:
    assert shown.replace("\N{NO-BREAK SPACE}", " ") == wanted


def test_values_that_are_none() -> None:
    assert number(10**400) is None and number(math.nan) is None and number(3) == 3.0
    assert bounds([0.1, None]) is None and bounds([1]) is None and bounds("ab") is None and bounds([0, 1]) == (0.0, 1.0)


def test_only_markup_escapes_escaping() -> None:
    assert tag("p", "<b>", tag("i", "&"), None, ["x", ["y"]]) == "<p>&lt;b&gt;<i>&amp;</i>xy</p>"
    assert tag("a", href='"><script>', hidden=True, title=None) == '<a href="&quot;&gt;&lt;script&gt;" hidden></a>'
    assert escape("\ud800\x07") == "\N{REPLACEMENT CHARACTER}" * 2


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([], False),
        ([], True),
        ([3.0], False),
        ([0.0, 0.0], False),
        ([1e-300, 1e300], True),
        ([-1e300, 1e300], False),
        ([5e-324], False),
        ([None, 1.0, 2048.0], True),
        ([-5.0, 0.0], True),
        ([1e17, 1e17 + 2], False),
        ([0.999999, 1.0], False),
    ],
)
def test_scales_bear_any_values(values: list[float | None], log: bool) -> None:
    scale = Scale.fit(values, log=log)
    ticks = scale.ticks()
    assert len(ticks) <= 12 and all(scale.low <= tick <= scale.high or math.isclose(tick, scale.low) for tick in ticks)
    panel = Panel("plot", scale, scale)
    for value in values:
        panel.point(value, value, "circle", "", "")
    drawn = panel.render()
    assert "nan" not in drawn and "inf" not in drawn


def test_ticks_are_round() -> None:
    assert Scale(0, 1).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert Scale.fit([1, 1000], log=True).ticks() == pytest.approx([1, 10, 100, 1000])
    assert Scale(3.4, -0.6).place(3.4) == 0 and Scale(3.4, -0.6).place(-0.6) == 1


def test_a_line_breaks_where_a_value_is_missing() -> None:
    panel = Panel("plot", Scale(0, 4), Scale(0, 1))
    panel.line([0, 1, 2, 3, 4], [0, 1, None, 1, 0], "", "a line")
    path = re.findall(r' d="([^"]*)"', panel.render())
    assert len(path) == 1 and path[0].count("M") == 2 and path[0].count("L") == 2


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open the page with")
@pytest.mark.parametrize("stage", MAKERS)
def test_a_browser_opens_the_page_without_an_error(pages: dict[str, Path], stage: str, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --enable-logging=stderr --v=0 --window-size=1200,3000"
    shot = tmp_path / "page.png"
    files = [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}", pages[stage].as_uri()]
    done = subprocess.run(
        [CHROMIUM, *flags.split(), *files],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert shot.exists(), done.stderr
    assert "CONSOLE" not in done.stderr


def test_what_estimates_are_worth_is_told(pages: dict[str, Path]) -> None:
    told = Page(pages["diagnose"]).text
    assert "nearest to the on-policy reverse KL come self normalised k1 on" in told and "off by 0.25 of 2 nats" in told
    assert "cosine with its token-level gradient of 0.31 on" in told
    assert "high student entropy, high divergence" in told and "86.0" in told


def test_a_student_s_page_begins_with_what_is_to_be_known_of_its_teacher(tmp_path: Path) -> None:
    record = {"eta": 0.25, "target": "./the-target"}
    warning = "teacher 'x/model' is the original: its calibration kept step 0"
    result = {
        "stage": "distill",
        "method": "sft",
        "warning": warning,
        "teacher_record": record,
        "notes": ["A <b> moved."],
    }
    path = write_run(tmp_path / "distill", "distill", result)
    told = Page(build_report(path)).text
    assert told.index("Teacher 'x/model' is the original: its calibration kept step 0. A <b> moved.") < told.index(
        "Learn"
    )
    assert "Calibration target./the-target" in " ".join(told.split())
    plain = " ".join(Page(build_report(distill_run(tmp_path / "plain", "gkd", 0.7))).text.split())
    assert "the original" not in plain and "Calibration target–" in plain
