"""What the sweep says of the knob, question by question, from the results of its cells: Markdown on stdout.

    distillknob sweep recipes/embedded.yaml --kept docs/evidence/cells --output runs/sweep
    python benchmarks/evidence.py docs/evidence/cells > docs/evidence/table.md

Needs no models and no samples: each cell's result holds its problems' scores. Differences are paired by problem; over
several seeds a problem's score is its mean over the seeds first, so that an interval is about problems (and the seeds
stand beside it one by one). Cells that are missing are left out, and said to be.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distillknob.knob_tables import causal, knob, tables
from distillknob.runs import Run, load_run
from distillknob.stats import Interval, interval, paired_difference

Result = dict[str, Any]
METHODS = ("gkd", "opd_rkl", "sft", "sft_verified")


def percent(found: Interval, *, points: bool = False) -> str:
    sign = "+" if points else ""
    return f"{100 * found.mean:{sign}.1f} [{100 * found.low:{sign}.1f}, {100 * found.high:{sign}.1f}]"


class Cells:
    """The finished cells, looked up by η, variant and seed."""

    def __init__(self, runs: Sequence[Run]):
        self.runs = list(runs)
        self.results = {(r["eta"], r["variant"], r["seed"]): r for r in (run.result for run in runs)}

    @property
    def etas(self) -> list[float]:
        return sorted({eta for eta, variant, _ in self.results if not variant})

    def seeds(self, *etas: float, variant: str = "") -> list[int]:
        """The seeds for which all these η have a cell."""
        found = [{seed for eta, name, seed in self.results if eta == one and name == variant} for one in etas]
        return sorted(set.intersection(*found)) if found else []

    def scores(self, who: str, eta: float, task: str, seed: int, variant: str = "") -> np.ndarray | None:
        """Each problem's mean score; `who` is `teacher` or a student's method."""
        cell = self.results.get((eta, variant, seed))
        if cell is None:
            return None
        held = cell["teacher_scores"] if who == "teacher" else cell["students"].get(who)
        return None if held is None else np.array(held["scores"][task])

    def mean(self, who: str, eta: float, task: str, seeds: Sequence[int], variant: str = "") -> np.ndarray | None:
        """Each problem's score, the mean over the seeds that have this student."""
        rows = [self.scores(who, eta, task, seed, variant) for seed in seeds]
        kept = [row for row in rows if row is not None]
        return np.mean(kept, axis=0) if kept else None

    def gap(self, a: tuple[str, float], b: tuple[str, float], task: str, seeds: Sequence[int]) -> Interval | None:
        """b − a over these seeds."""
        before, after = self.mean(*a, task, seeds), self.mean(*b, task, seeds)
        return None if before is None or after is None else paired_difference(before, after)


def curve(cells: Cells, tasks: Sequence[str]) -> list[str]:
    methods = [m for m in METHODS if any(m in r["students"] for r in cells.results.values())]
    lines = []
    for task in tasks:
        lines += ["", f"**{task}**", "", f"| η | seeds | teacher | {' | '.join(methods)} |"]
        lines += ["|" + "---|" * (3 + len(methods))]
        for eta in cells.etas:
            seeds = cells.seeds(eta)
            shown = []
            for who in ("teacher", *methods):
                values = cells.mean(who, eta, task, seeds)
                shown.append("–" if values is None else percent(interval(values)))
            lines.append(f"| {eta:+g} | {len(seeds)} | {' | '.join(shown)} |")
        chance = next(
            t["chance"] for t in next(iter(cells.results.values()))["teacher_scores"]["tasks"] if t["task"] == task
        )
        seeds = cells.seeds(0.0)
        none = cells.mean("none", 0.0, task, seeds)
        if none is not None:
            before = percent(interval(none))
            lines += ["", f"Student before distillation {before}, chance {100 * chance:.1f}."]
    return lines


def calibrations(cells: Cells) -> list[str]:
    lines = [
        "",
        "| η | seed | step kept | final β | KL to the original, nats/token | log-ratio, nats/answer | outcome |",
    ]
    lines.append("|" + "---|" * 7)
    for (eta, variant, seed), result in sorted(
        cells.results.items(), key=lambda item: (item[0][1], item[0][0], item[0][2])
    ):
        made = result["calibration"]
        if made:
            name = f"{eta:+g}{' ' + variant if variant else ''}"
            figures = f"{made['final_beta']:.3g} | {made['anchor_kl']:.4f} | {made['log_ratio']:.2f}"
            lines.append(
                f"| {name} | {seed} | {made['kept_step']} of {made['steps']} | {figures} | {made['outcome']} |"
            )
    return lines


def asked(cells: Cells, tasks: Sequence[str], strong: float) -> list[str]:
    """Each demand with what was measured."""
    rows: list[tuple[str, str, bool | None]] = []
    first = tasks[0]
    for eta in (-strong, strong):
        seeds = cells.seeds(0.0, eta)
        for task in tasks:
            gaps = {seed: cells.gap(("teacher", 0.0), ("teacher", eta), task, [seed]) for seed in seeds}
            for seed, gap in gaps.items():
                assert gap is not None
                what = f"teacher at η = {eta:+g} not inferior, {task}, seed {seed}: interval above −1.5"
                rows.append((what, percent(gap, points=True), gap.low > -0.015))
    seeds = cells.seeds(0.0, -strong)
    for task in tasks:
        for method in METHODS:
            gap = cells.gap((method, 0.0), (method, -strong), task, seeds)
            if gap is not None:
                wanted = gap.mean >= 0.15 if task == first and method == "gkd" else None
                wanted = gap.low > 0 if wanted is None and method == "gkd" else wanted
                bound = (
                    " (at least +15)"
                    if task == first and method == "gkd"
                    else " (interval off zero)"
                    if method == "gkd"
                    else ""
                )
                rows.append((f"gain, {task}, {method} by the same method{bound}", percent(gap, points=True), wanted))
        baselines = {
            m: values.mean()
            for m in (*METHODS, "sft_gold", "sft_best_of_n")
            if (values := cells.mean(m, 0.0, task, seeds)) is not None
        }
        if baselines:
            best = max(baselines, key=lambda m: baselines[m])
            gap = cells.gap((best, 0.0), ("gkd", -strong), task, seeds)
            if gap is not None:
                rows.append(
                    (
                        f"gain, {task}, GKD of the distillable against the best baseline ({best})",
                        percent(gap, points=True),
                        None,
                    )
                )
    seeds = cells.seeds(0.0, strong)
    for method in METHODS:
        gap = cells.gap((method, 0.0), (method, strong), first, seeds)
        if gap is not None:
            rows.append((f"drop, {first}, {method} (at least −20)", percent(gap, points=True), gap.mean <= -0.20))
        below = cells.gap(("none", 0.0), (method, strong), first, seeds)
        if below is not None:
            rows.append(
                (
                    f"{method} at η = {strong:+g} below the student before, {first}",
                    percent(below, points=True),
                    below.high < 0,
                )
            )
    for row in knob(tables([run for run in cells.runs if not run.result["variant"]])["students"]):
        if row["task"] == first and row["points"] == 7:
            what = f"Spearman(η, student), {first}, {row['method']}, seed {row['seed']} (at most −0.9)"
            rows.append((what, f"{row['spearman']:+.2f}", row["spearman"] <= -0.9))
    for sign in (-1.0, 1.0):
        seeds = cells.seeds(0.25 * sign, 1.0 * sign)
        for method in METHODS:
            gap = cells.gap((method, 0.25 * sign), (method, 1.0 * sign), first, seeds)
            if gap is not None:
                off = gap.low > 0 or gap.high < 0
                rows.append(
                    (
                        f"|η| = 1 against 0.25, sign {sign:+g}, {first}, {method} (off zero)",
                        percent(gap, points=True),
                        off,
                    )
                )
    lines = ["", "| asked | measured, points | |", "|---|---|---|"]
    return [
        *lines,
        *(f"| {what} | {found} | {'' if met is None else 'yes' if met else '**no**'} |" for what, found, met in rows),
    ]


def controls(cells: Cells, tasks: Sequence[str], strong: float) -> list[str]:
    lines = [
        "",
        "| control | task | seeds | student | − GKD of the original | − GKD of the distillable |",
        "|" + "---|" * 6,
    ]
    seeds = cells.seeds(0.0)
    for method in ("sft_best_of_n", "sft_gold", "none"):
        for task in tasks:
            values = cells.mean(method, 0.0, task, seeds)
            if values is not None:
                gaps = [cells.gap(("gkd", eta), (method, 0.0), task, seeds) for eta in (0.0, -strong)]
                shown = " | ".join("–" if gap is None else percent(gap, points=True) for gap in gaps)
                lines.append(f"| {method} | {task} | {len(seeds)} | {percent(interval(values))} | {shown} |")
    for eta, variant, seed in sorted(key for key in cells.results if key[1]):
        for method in cells.results[eta, variant, seed]["students"]:
            for task in tasks:
                values = cells.scores(method, eta, task, seed, variant)
                gaps = [
                    paired_difference(other, values)
                    for one in (0.0, -strong)
                    if (one, "", seed) in cells.results
                    and (other := cells.scores(method, one, task, seed)) is not None
                    and values is not None
                ]
                shown = " | ".join(percent(gap, points=True) for gap in gaps)
                name = f"{variant}, η = {eta:+g}, {method}"
                lines.append(f"| {name} | {task} | {seed} | {percent(interval(values))} | {shown} |")
    return lines


def causes(cells: Cells, strong: float) -> list[str]:
    rows = causal([run for run in cells.runs if not run.result["variant"]])
    lines = [
        "",
        f"| seed | task, measure | original | η = {-strong:+g} − original | η = {strong:+g} − original |",
        "|" + "---|" * 5,
    ]
    by_place: dict[tuple[int, str, str], dict[float, Result]] = {}
    for row in rows:
        by_place.setdefault((row["seed"], row["task"], f"{row['measure']} ({row['unit']})"), {})[row["eta"]] = row
    for (seed, task, measure), found in by_place.items():
        shown = []
        for eta in (-strong, strong):
            row = found.get(eta)
            known = row is not None and row["difference"] is not None
            shown.append(
                f"{row['difference']:+.3f} [{row['interval'][0]:+.3f}, {row['interval'][1]:+.3f}]"
                if row and known
                else "–"
            )
        lines.append(f"| {seed} | {task}, {measure} | {found[0.0]['value']:.3f} | {' | '.join(shown)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path, help="folder of finished cells")
    parser.add_argument("--strong", type=float, default=0.5, help="|η| of the two teachers that the demands are about")
    arguments = parser.parse_args()
    runs = [load_run(path) for path in sorted(arguments.cells.iterdir()) if (path / "manifest.json").exists()]
    cells = Cells(runs)
    tasks = list(next(iter(cells.results.values()))["teacher_scores"]["scores"])
    lines = [
        f"{len(runs)} cells; seeds {cells.seeds(0.0)}; % right (mean score on instruct), 95 % intervals by problem."
    ]
    for title, part in (
        ("The curve", curve(cells, tasks)),
        ("The calibrations", calibrations(cells)),
        ("What was asked", asked(cells, tasks, arguments.strong)),
        ("Controls", controls(cells, tasks, arguments.strong)),
        ("What the lens says of each teacher", causes(cells, arguments.strong)),
    ):
        lines += ["", f"### {title}", *part]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
