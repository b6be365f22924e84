"""What runs of every stage might have written: results with figures, gaps and hostile text in every corner."""

from __future__ import annotations

import random
from typing import Any

from distillknob.verdicts.teachers import teacher_label
from distillknob.verdicts.turning import turning

HOSTILE = '<script>alert(1)</script><img src="https://evil.example/x.png" onerror=alert(2)>'


# A control character, a lone surrogate and an override of the writing direction: what a bad sampler can emit.
ODD = "a\x00b\x1b[31m \ud800 \u202egnp.exe"


TASKS = ("math", "qa", "instruct")


CHANCE = {"math": 0.01, "qa": 0.25, "instruct": 0.0}


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
        "knob": [
            knob_row("math", "ways", -0.5, "far", student=0.75),
            knob_row("math", "answers", -0.5, "far"),
            knob_row(HOSTILE, "ways", 0.5, "hardly"),
        ],
        "knob_rewards": [
            {
                **knob_row(task, "ways", 0.5, "far"),
                "reward": reward,
                **dict(zip(("way", "before", "after", "certainty"), way, strict=True)),
                "student_before": student and 0.4,
                "student_after": student,
                "student_change": student and student - 0.4,
                "student_interval": [None, None] if student is None else [-0.35, -0.25],
            }
            for task, reward, way, student in (
                ("math", "sequence_mean", ("alone", 0.25, 0.75, 0.625), 0.1),
                (HOSTILE, HOSTILE, (HOSTILE, 0.25, 0.75, HOSTILE), None),
                ("math", "sequence", (None, None, None, None), 0.4),
            )
        ],
        "frontier": [
            {
                "task": task,
                "scope": scope,
                "side": side,
                "eta": None if strength == 2 else sign * strength / 10,
                "shift": sign * 0.4 * strength,
                "interval": [None, None],
                "kl": 0.3 * strength,
                "score": 0.95,
                "effective_samples": 4.0,
            }
            for task in ("math", HOSTILE)
            for scope in ("ways", "answers")
            for side, sign in (("below 0", -1), ("above 0", 1))
            for strength in (1, 2)
        ],
        "findings": findings,
    }


def knob_row(task: str, scope: str, eta: float, turns: str, student: float | None = None) -> dict[str, Any]:
    """What a calibration at η would make of a teacher; without a student where the task names no ways."""
    return {
        "task": task,
        "scope": scope,
        "eta": eta,
        "turns": turns,
        "log_ratio": 1.875,
        "log_ratio_after": 1.875 + 2 * eta,
        "difference": 2 * eta,
        "interval": [2 * eta - 0.25, 2 * eta + 0.25],
        "kl": 0.875,
        "kl_interval": [0.75, 1.0],
        "score": 0.975,
        "score_after": 0.985,
        "score_interval": [0.0, 0.02],
        "student": student and 0.4,
        "student_after": student,
        "student_gain": student and student - 0.4,
        "student_interval": [None, None] if student is None else [0.25, 0.45],
        "effective_samples": 3.25,
        "samples": 8,
    }


def moved_task() -> dict[str, Any]:
    """What a calibration moved on one task: one cluster grew, one shrank, sure tokens weren't measured."""

    def share(before: float, after: float) -> dict[str, Any]:
        change = after - before
        return {"before": before, "after": after, "difference": change, "interval": [change - 0.05, change + 0.05]}

    return {
        "task": "math",
        "problems": 100,
        "figures": [
            {"name": "tokens", **share(31.2, 36.9), "problems": 98},
            {"name": "finished", **share(1.0, 0.99), "problems": 100},
            {"name": "different", **share(1.8, 1.3), "problems": 98},
            {
                "name": "sure",
                "before": None,
                "after": None,
                "difference": None,
                "interval": [None, None],
                "problems": 0,
            },
        ],
        "ways": [{"way": HOSTILE, **share(0.42, 0.81)}],
        "clusters": [
            {"example": f"47+8=055\n\x1b[2J-5=050 {HOSTILE}", "answers": 700, **share(0.4, 0.8)},
            {"example": "", "answers": 100, **share(0.6, 0.2)},
        ],
        "silhouette": 0.71,
    }
