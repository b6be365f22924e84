"""What a comparison of methods says, from its kept result and the diagnoses of its teachers: Markdown on stdout.

    distillknob compare recipes/embedded.yaml … --output runs/compare
    python benchmarks/methods.py docs/evidence/methods/compare.json.gz \
        --diagnoses docs/evidence/methods/diagnoses.json > docs/evidence/methods.md

First a table a teacher, all methods with their score on each task and the difference to the baseline. Then, for each
trap, what its finding says of a teacher and a task beside what the remedy's method gained there (`ADVICE`): does
`diagnose` say beforehand which method helps? Last, what each further teacher does to all methods alike, against the
first one. Needs no models: the result holds what was measured.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distillknob.report.names import method_name
from distillknob.stats import spearman
from distillknob.verdicts.methods import apart

Row = Mapping[str, Any]

# Trap: the remedy's method, the one that the trap is said to harm (both written before the students were trained), and
# whether a lower value is the worse one.
ADVICE = {
    "signal_sparsity": ("tip", "gkd", True),
    "off_policy_instability": ("opd_rkl", "sft", True),
    "sequence_myopia": ("gkd", "sft", True),
    "wrong_trace_preference": ("sft_verified", "sft", False),
    "capacity_gap": ("sft_best_of_n_sure", "sft", False),
    "accuracy_on_student_prefixes": ("akl", "gkd", False),
    "tail_noise": ("top_k_opd", "opd_rkl", False),
}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = (f"| {' | '.join(row)} |" for row in rows)
    return ["", f"| {' | '.join(header)} |", "|" + "---|" * len(header), *lines]


def compared(result: Row) -> list[str]:
    """A table a teacher: the methods by their mean over the tasks."""
    lines, tasks = [], result["tasks"]
    before = {row["task"]: row for row in result["before"]}
    for teacher in result["teachers"]:
        rows = [row for row in result["rows"] if row["teacher"] == teacher["teacher"] and row["score"] is not None]
        by_method: dict[str, dict[str, Row]] = {}
        for row in rows:
            by_method.setdefault(row["method"], {})[row["task"]] = row
        whole = {name: own for name, own in by_method.items() if len(own) == len(tasks)}
        means = {name: float(np.mean([own[task]["score"] for task in tasks])) for name, own in whole.items()}
        lines += ["", f"## Teacher {teacher['teacher']}"]
        body = [_line(name, whole[name], means[name], tasks) for name in sorted(means, key=lambda name: -means[name])]
        start = [f"{100 * before[task]['score']:.1f}" for task in tasks]
        mean = f"{100 * float(np.mean([before[task]['score'] for task in tasks])):.1f}"
        body.append(["*student before*", mean, *start, "–", "–", "–", "–"])
        header = ["method", "mean", *tasks, "time a step", "memory, GiB", "rate", "seeds"]
        lines += table(header, body)
    return lines


def _line(method: str, own: Mapping[str, Row], mean: float, tasks: Sequence[str]) -> list[str]:
    first = own[tasks[0]]
    notes = ("*" if first["alone"] else "") + ("°" if first["budget"] else "")
    time, memory, rate = first["relative_time"], first["peak_memory"], first["learning_rate"]
    return [
        f"{method_name(method)} (`{method}`){notes}",
        f"{100 * mean:.1f}",
        *(_score(own[task]) for task in tasks),
        "–" if time is None else f"{time:.1f}×",
        "–" if memory is None else f"{memory / 2**30:.2f}",
        f"{rate:g}",
        str(len(first["seeds"])),
    ]


def _score(row: Row) -> str:
    difference = row["to_baseline"]
    if difference is None:
        return f"{100 * row['score']:.1f}"
    low, high = (100 * end for end in difference["trainings"] or difference["problems"])
    value, word = 100 * difference["difference"], apart(difference)
    shown = f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
    return f"{100 * row['score']:.1f} ({f'**{shown}**' if word in ('better', 'worse') else shown})"


def advice(result: Row, diagnoses: Mapping[str, Sequence[Row]]) -> list[str]:
    """Each trap's finding beside what its remedy's method gained over the method that the trap harms."""
    scores = {
        (row["teacher"], row["task"], row["method"]): row["score"] for row in result["rows"] if row["score"] is not None
    }
    body = []
    for trap, (remedy, harmed, lower_is_worse) in ADVICE.items():
        points = [
            (finding, scores[teacher, finding["task"], remedy] - scores[teacher, finding["task"], harmed])
            for teacher, findings in diagnoses.items()
            for finding in findings
            if finding["name"] == trap
            and finding["applicable"]
            and (teacher, finding["task"], remedy) in scores
            and (teacher, finding["task"], harmed) in scores
        ]
        sharp = [gain for finding, gain in points if finding["severity"] != "none"]
        quiet = [gain for finding, gain in points if finding["severity"] == "none"]
        sign = -1 if lower_is_worse else 1
        rank = spearman([sign * finding["value"] for finding, _ in points], [gain for _, gain in points])
        body.append(
            [
                trap,
                f"`{remedy}` − `{harmed}`",
                _mean(sharp),
                _mean(quiet),
                f"{sum(gain > 0 for gain in sharp)} of {len(sharp)}",
                "–" if np.isnan(rank) else f"{rank:+.2f}",
            ]
        )
    header = [
        "trap",
        "remedy − harmed",
        "mean gain where told, points",
        "where not",
        "gains where told",
        "ρ of how bad and the gain",
    ]
    return table(header, body)


def turned(result: Row) -> list[str]:
    """Over the methods that learn from the teachers: what another teacher than the first does to their students."""
    first, *others = [teacher["teacher"] for teacher in result["teachers"]]
    scores = {
        (row["task"], row["teacher"], row["method"]): 100 * row["score"]
        for row in result["rows"]
        if row["score"] is not None and not row["alone"]
    }
    body = []
    for before in result["before"]:
        task = before["task"]
        own = {teacher: _of_teacher(scores, task, teacher) for teacher in (first, *others)}
        methods = sorted(set.intersection(*(set(one) for one in own.values())))
        for teacher in (first, *others):
            changes = [own[teacher][method] - own[first][method] for method in methods]
            best = max(methods, key=lambda method: own[teacher][method])
            more = sum(change > 0 for change in changes)
            body.append(
                [
                    task,
                    teacher,
                    f"{100 * before['score']:.1f}",
                    f"{np.median([own[teacher][method] for method in methods]):.1f}",
                    "–" if teacher == first else f"{np.median(changes):+.1f}",
                    "–" if teacher == first else f"{more} of {len(methods)}",
                    f"{own[teacher][best]:.1f} (`{best}`)",
                ]
            )
    header = ["task", "teacher", "student before", "median", "median change", "methods that gain", "the best"]
    return table(header, body)


def _of_teacher(scores: Mapping[tuple[str, str, str], float], task: str, teacher: str) -> dict[str, float]:
    return {method: score for (of, by, method), score in scores.items() if (of, by) == (task, teacher)}


def _mean(gains: Sequence[float]) -> str:
    return "–" if not gains else f"{100 * float(np.mean(gains)):+.1f} (of {len(gains)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="result.json of the comparison, gzipped")
    parser.add_argument("--diagnoses", type=Path, metavar="FILE", help="JSON: teacher -> findings of its diagnosis")
    arguments = parser.parse_args()
    with gzip.open(arguments.result, "rt", encoding="utf-8") as file:
        result = json.load(file)
    lines = [
        "# Methods side by side: the whole table",
        "",
        "Made by `benchmarks/methods.py`. Scores in %; in brackets the difference to GKD in points with its 95 % "
        "interval. Bold: it holds when all methods are looked at together (Holm, 5 %). * needs none of these teachers, "
        "° isn't held to the tokens of a step.",
    ]
    lines += compared(result)
    if arguments.diagnoses:
        diagnoses = json.loads(arguments.diagnoses.read_text(encoding="utf-8"))
        lines += ["", "## What diagnose had said", *advice(result, diagnoses)]
    if len(result["teachers"]) > 1:
        lines += ["", f"## Each teacher against {result['teachers'][0]['teacher']}, over all methods", *turned(result)]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
