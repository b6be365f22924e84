"""What the sweep says of the knob, question by question, from the results of its cells: Markdown on stdout.

    distillknob sweep recipes/embedded.yaml --kept docs/evidence/cells.jsonl.gz --output runs/sweep
    python benchmarks/evidence.py docs/evidence/cells.jsonl.gz --figure docs/evidence/curve.svg > docs/evidence/table.md

Needs no models and no samples: each cell's result holds its problems' scores. Differences are paired by problem; over
several seeds a problem's score is its mean over the seeds first, so that an interval is about problems. What another
training would give is a question of seeds: they stand one by one, with an interval over them. Cells that are missing
are left out.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from distillknob.cli.text import percent as text_percent
from distillknob.experiments.kept import CellRecord, read_cells
from distillknob.experiments.tables import causal, knob, tables
from distillknob.report.drawing.markup import Html, tag
from distillknob.report.drawing.markup import percent as percent_of
from distillknob.report.drawing.plots import Series, line_plot, whole_percent
from distillknob.report.drawing.svg import Scale, mark
from distillknob.report.names import method_name, series_style, signed_eta
from distillknob.stats import Interval, interval, paired_difference

Result = dict[str, Any]
Key = tuple[float, str, int]  # η, variant, seed
Demand = tuple[str, str, bool | None]  # what was asked, what was measured, whether that meets it
METHODS = ("gkd", "opd_rkl", "sft", "sft_verified")
BASELINES = ("gkd", "sft")  # on the original: what the distillable teacher's student has to beat
LONGER = {"twice-the-steps": "× 2", "four-times-the-steps": "× 4"}  # variants whose students are trained longer
CONTROLS = ("sft_best_of_n", "sft_gold", "none")
MARGIN, GAIN, DROP, KNOB = -0.015, 0.15, -0.20, -0.9


def percent(found: Interval | None, *, points: bool = False) -> str:
    return "–" if found is None else text_percent(found.mean, found.as_list(), signed=points)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "",
        f"| {' | '.join(header)} |",
        "|" + "---|" * len(header),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


class Cells:
    """The finished cells, looked up by η, variant and seed."""

    def __init__(self, records: Sequence[CellRecord]):
        self.records = list(records)
        self.results: dict[Key, Any] = {}
        for record in records:
            result = record.result
            self.results[result["eta"], result["variant"], result["seed"]] = result

    @property
    def etas(self) -> list[float]:
        return sorted({eta for eta, variant, _ in self.results if not variant})

    def seeds(self, *etas: float) -> list[int]:
        """The seeds for which the grid has a cell of each of these η."""
        found = [{seed for eta, variant, seed in self.results if eta == one and not variant} for one in etas]
        return sorted(set.intersection(*found)) if found else []

    def told(self) -> Iterator[list[Result]]:
        """What was measured by task, of every teacher and every student."""
        for cell in self.results.values():
            for held in (cell["teacher_scores"], *cell["students"].values()):
                yield held["tasks"]

    def scores(
        self, who: str, eta: float, task: str, seed: int, variant: str = "", measure: str = "scores"
    ) -> np.ndarray | None:
        """Each problem's figure; `who` is `teacher` or a student's method, `measure` is `scores` or `pass@k`."""
        cell = self.results.get((eta, variant, seed))
        if cell is None:
            return None
        held = cell["teacher_scores"] if who == "teacher" else cell["students"].get(who)
        values = None if held is None else held.get(measure, {}).get(task)
        return None if values is None else np.array(values)

    def mean(self, who: str, eta: float, task: str, seeds: Sequence[int], measure: str = "scores") -> np.ndarray | None:
        """Each problem's figure, the mean over the seeds that have this student."""
        rows = [self.scores(who, eta, task, seed, measure=measure) for seed in seeds]
        kept = [row for row in rows if row is not None]
        return np.mean(kept, axis=0) if kept else None

    def gap(
        self, a: tuple[str, float], b: tuple[str, float], task: str, seeds: Sequence[int], measure: str = "scores"
    ) -> Interval | None:
        """b − a over these seeds."""
        return difference(self.mean(*a, task, seeds, measure), self.mean(*b, task, seeds, measure))


def difference(before: np.ndarray | None, after: np.ndarray | None) -> Interval | None:
    return None if before is None or after is None else paired_difference(before, after)


def curve(cells: Cells, tasks: Sequence[str]) -> list[str]:
    lines = []
    for task in tasks:
        for measure, name in (("scores", task), ("pass@16", f"{task}, pass@16")):
            rows = []
            for eta in cells.etas:
                seeds = cells.seeds(eta)
                values = [cells.mean(who, eta, task, seeds, measure) for who in ("teacher", *METHODS)]
                shown = ["–" if one is None else percent(interval(one)) for one in values]
                if any(one is not None for one in values):
                    rows.append([f"{eta:+g}", ", ".join(map(str, seeds)), *shown])
            if rows:
                lines += ["", f"**{name}**", *table(["η", "seeds", "teacher", *METHODS], rows)]
            before = cells.mean("none", 0.0, task, cells.seeds(0.0), measure)
            if before is not None and rows:
                lines += ["", f"Student before distillation {percent(interval(before))}{chance(cells, task, measure)}."]
    rate = min(row["finished_rate"] for told in cells.told() for row in told)
    return [*lines, "", f"Every teacher and every student finishes at least {100 * rate:.1f} % of its answers."]


def curve_figure(cells: Cells, task: str) -> str:
    """The curve of one task as an SVG file that stands by itself: teacher and students against η, with intervals."""
    x = Scale.fit(cells.etas)
    lines, entries = [], []
    for who in ("teacher", *METHODS):
        style = ("square", "of-none") if who == "teacher" else series_style(METHODS.index(who))
        known = [(eta, cells.mean(who, eta, task, cells.seeds(eta))) for eta in cells.etas]
        points = [(eta, interval(values)) for eta, values in known if values is not None]
        spread = [(found.low, found.high) for _, found in points]
        name = "teacher" if who == "teacher" else f"student, {method_name(who)}"
        lines.append(Series(name, style, [eta for eta, _ in points], [found.mean for _, found in points], spread))
        entries.append((*style, name))
    before = cells.mean("none", 0.0, task, cells.seeds(0.0))
    levels = [] if before is None else [(float(before.mean()), "kept", "student before distillation")]
    panel = line_plot(
        f"{task}: % right",
        lines,
        x,
        Scale(0, 1),
        x_label="η",
        x_ticks=[(eta, signed_eta(eta)) for eta in cells.etas],
        y_format=whole_percent,
        value_format=percent_of,
        rules=levels,
        width=760,
        height=330,
    )
    legend = [
        tag("g", mark(shape, 11, 7, 5, f"mark {css}"), tag("text", name, x=24, y=11), transform=f"translate({at} 344)")
        for at, (shape, css, name) in zip((0, 90, 215, 420, 545), entries, strict=True)
    ]
    note = "η < 0: drawn towards π_C, the proxy of a student; η > 0: pushed away. Dotted: student before distillation."
    legend.append(tag("text", note, x=0, y=372))
    style = Html(files("distillknob.report").joinpath("report.css").read_text(encoding="utf-8"))
    ground = tag("rect", width=800, height=404, fill="var(--surface)")
    inner = tag("g", panel, legend, transform="translate(20 14)")
    # The panel is an svg of its own, which takes its size from here.
    sized = str(inner).replace('viewBox="0 0 760 330"', 'viewBox="0 0 760 330" width="760" height="330"')
    whole = tag(
        "svg", tag("style", style), ground, Html(sized), xmlns="http://www.w3.org/2000/svg", viewBox="0 0 800 404"
    )
    return f"{whole}\n"


def chance(cells: Cells, task: str, measure: str) -> str:
    if measure != "scores":
        return ""
    told = next(iter(cells.results.values()))["teacher_scores"]["tasks"]
    return f", chance {100 * next(row['chance'] for row in told if row['task'] == task):.1f}"


def by_seed(cells: Cells, tasks: Sequence[str]) -> list[str]:
    """Differences to the original by the same method, seed by seed."""
    rows = []
    for task in tasks:
        for eta in (eta for eta in cells.etas if eta):
            seeds = cells.seeds(0.0, eta)
            for who in ("teacher", *METHODS):
                found = [cells.gap((who, 0.0), (who, eta), task, [seed]) for seed in seeds]
                gaps = [gap for gap in found if gap is not None]
                if len(gaps) > 1:
                    shown = "; ".join(percent(gap, points=True) for gap in gaps)
                    whole = interval([gap.mean for gap in gaps], proportion=False)  # each seed one observation
                    rows.append([task, f"{eta:+g}", who, shown, percent(whole, points=True)])
    header = ["task", "η", "who", "− original, seed by seed", "seeds as the units"]
    return table(header, rows) if rows else ["", "One seed so far."]


def calibrations(cells: Cells) -> list[str]:
    rows = []
    for eta, variant, seed in sorted(cells.results, key=lambda key: (key[1], key[0], key[2])):
        made = cells.results[eta, variant, seed]["calibration"]
        if made:
            name = f"{eta:+g}{' ' + variant if variant else ''}"
            figures = [f"{made['final_beta']:.3g}", f"{made['anchor_kl']:.4f}", f"{made['log_ratio']:.2f}"]
            rows.append([name, str(seed), f"{made['kept_step']} of {made['steps']}", *figures, made["outcome"]])
    anchor, ratio = "KL to the original, nats/token", "log-ratio, nats/answer"
    return table(["η", "seed", "step kept", "final β", anchor, ratio, "outcome"], rows)


def utility(cells: Cells, tasks: Sequence[str], strong: float) -> Iterator[Demand]:
    for eta in (-strong, strong):
        for task in tasks:
            for seed in cells.seeds(0.0, eta):
                gap = cells.gap(("teacher", 0.0), ("teacher", eta), task, [seed])
                assert gap is not None
                what = f"teacher at η = {eta:+g} not inferior, {task}, seed {seed}: interval above −1.5"
                yield what, percent(gap, points=True), gap.low > MARGIN


def gains(cells: Cells, tasks: Sequence[str], strong: float) -> Iterator[Demand]:
    seeds, first = cells.seeds(0.0, -strong), tasks[0]
    for measure, name in (("scores", ""), ("pass@16", ", pass@16")):
        for method in METHODS:
            gaps = {task: cells.gap((method, 0.0), (method, -strong), task, seeds, measure) for task in tasks}
            known = {task: gap for task, gap in gaps.items() if gap is not None}
            for task, gap in known.items():
                asked = task == first and not name
                bound = " (at least +15)" if asked else ""
                met = gap.mean >= GAIN if asked else None
                yield f"gain, {task}{name}, {method} by the same method{bound}", percent(gap, points=True), met
            if known:
                off = [task for task, gap in known.items() if gap.low > 0]
                what = f"tasks on which {method}'s gain{name} is off zero (at least 2)"
                yield what, f"{len(off)} of {len(known)}", len(off) >= 2
    for task in tasks:
        for what, rivals in (("the original's SFT and GKD", BASELINES), ("all its students", (*METHODS, *CONTROLS))):
            found = {m: v.mean() for m in rivals if (v := cells.mean(m, 0.0, task, seeds)) is not None}
            if not found:
                continue
            best = max(found, key=lambda method: found[method])
            best_gap = cells.gap((best, 0.0), ("gkd", -strong), task, seeds)
            if best_gap is not None:
                asked = task == first and rivals is BASELINES
                name = f"gain, {task}, GKD of the distillable over the best of {what} ({best})"
                bound = " (at least +15)" if asked else ""
                yield f"{name}{bound}", percent(best_gap, points=True), best_gap.mean >= GAIN if asked else None


def drops(cells: Cells, tasks: Sequence[str], strong: float) -> Iterator[Demand]:
    seeds, first = cells.seeds(0.0, strong), tasks[0]
    for method in METHODS:
        gap = cells.gap((method, 0.0), (method, strong), first, seeds)
        if gap is not None:
            yield f"drop, {first}, {method} (at least −20)", percent(gap, points=True), gap.mean <= DROP
        below = cells.gap(("none", 0.0), (method, strong), first, seeds)
        if below is not None:
            what = f"{method} at η = {strong:+g} below the student before, {first}"
            yield what, percent(below, points=True), below.high < 0


def continuity(cells: Cells, tasks: Sequence[str]) -> Iterator[Demand]:
    first = tasks[0]
    for row in knob(tables([record for record in cells.records if not record.result["variant"]])["students"]):
        if row["task"] == first and row["points"] == 7:
            what = f"Spearman(η, student), {first}, {row['method']}, seed {row['seed']} (at most −0.9)"
            yield what, f"{row['spearman']:+.2f}", row["spearman"] <= KNOB
    for sign in (-1.0, 1.0):
        seeds = cells.seeds(0.25 * sign, 1.0 * sign)
        for method in METHODS:
            gap = cells.gap((method, 0.25 * sign), (method, 1.0 * sign), first, seeds)
            if gap is not None:
                what = f"η = {sign:+g} − η = {0.25 * sign:+g}, {first}, {method} (off zero)"
                yield what, percent(gap, points=True), gap.high < 0 if sign > 0 else gap.low > 0


def asked(cells: Cells, tasks: Sequence[str], strong: float) -> list[str]:
    """Each demand with what was measured."""
    demands = [
        *utility(cells, tasks, strong),
        *gains(cells, tasks, strong),
        *drops(cells, tasks, strong),
        *continuity(cells, tasks),
    ]
    rows = [[what, found, "" if met is None else "yes" if met else "**no**"] for what, found, met in demands]
    return table(["asked", "measured, points", "met"], rows)


def controls(cells: Cells, tasks: Sequence[str], strong: float) -> list[str]:
    """Students of the original by other ways, beside GKD's of the original and of the distillable teacher."""
    rows = []
    seeds = cells.seeds(0.0)
    for method in CONTROLS:
        for task in tasks:
            values = cells.mean(method, 0.0, task, seeds)
            if values is not None:
                gaps = [cells.gap(("gkd", eta), (method, 0.0), task, cells.seeds(0.0, eta)) for eta in (0.0, -strong)]
                shown = [percent(gap, points=True) for gap in gaps]
                rows.append([method, task, ", ".join(map(str, seeds)), percent(interval(values)), *shown])
    return table(["control", "task", "seeds", "student", "− GKD of the original", "− GKD of the distillable"], rows)


def variants(cells: Cells, tasks: Sequence[str]) -> list[str]:
    """Cells with other settings, beside the grid's: the original's, and that of the same η."""
    rows = []
    for eta, variant, seed in sorted(
        (key for key in cells.results if key[1]), key=lambda key: (key[1], key[0], key[2])
    ):
        for who in ("teacher", *cells.results[eta, variant, seed]["students"]):
            for task in tasks:
                values = cells.scores(who, eta, task, seed, variant)
                if values is None:
                    continue
                own = cells.scores(who, 0.0, task, seed, variant)  # the variant's original, where it has one
                original = cells.scores(who, 0.0, task, seed) if own is None or eta == 0 else own
                gaps = [difference(original, values), difference(cells.scores(who, eta, task, seed), values)]
                shown = [percent(gap, points=True) for gap in gaps]
                rows.append([variant, f"{eta:+g}", who, task, str(seed), percent(interval(values)), *shown])
    header = ["variant", "η", "who", "task", "seed", "score", "− original", "− the grid's at this η"]
    return table(header, rows) if rows else ["", "None so far."]


def longer(cells: Cells, tasks: Sequence[str], strong: float) -> list[str]:
    """What doubling the students' steps changes, and the knob's effect at each number of steps, over the seeds that
    have both sides."""
    steps = [("", "× 1"), *LONGER.items()]
    pairs = [((0.0, a), (0.0, b), f"original, {more} − {less}") for (a, less), (b, more) in itertools.pairwise(steps)]
    pairs += [
        ((0.0, v), (eta, v), f"η = {eta:+g} − original, {many}") for eta in (-strong, strong) for v, many in steps
    ]
    rows = []
    for ((eta_a, variant_a), (eta_b, variant_b), what), task, method in itertools.product(pairs, tasks, METHODS):
        sides = {
            seed: (
                cells.scores(method, eta_a, task, seed, variant_a),
                cells.scores(method, eta_b, task, seed, variant_b),
            )
            for seed in sorted({seed for *_, seed in cells.results})
        }
        known = {seed: (a, b) for seed, (a, b) in sides.items() if a is not None and b is not None}
        if not known:
            continue
        before, after = (np.mean(side, axis=0) for side in zip(*known.values(), strict=True))
        gaps = [paired_difference(a, b).mean for a, b in known.values()]
        whole = interval(gaps, proportion=False) if len(gaps) > 1 else None  # each seed one observation
        shown = [percent(interval(after)), percent(paired_difference(before, after), points=True)]
        by_seeds = ["; ".join(f"{100 * gap:+.1f}" for gap in gaps), percent(whole, points=True)]
        rows.append([what, task, method, ", ".join(map(str, known)), *shown, *by_seeds])
    header = ["what", "task", "method", "seeds", "score", "difference", "seed by seed", "seeds as the units"]
    return table(header, rows) if rows else ["", "None so far."]


def ways(cells: Cells, tasks: Sequence[str]) -> list[str]:
    """How often teachers and GKD's students write in each way, the mean over seeds, in %."""
    rows = []
    for task in tasks:
        for eta in cells.etas:
            row = [task, f"{eta:+g}"]
            for who in ("teacher", "gkd"):
                found: dict[str, list[float]] = {}
                for seed in cells.seeds(eta):
                    cell = cells.results[eta, "", seed]
                    held = cell["teacher_scores"] if who == "teacher" else cell["students"].get(who, {"tasks": []})
                    for told in (one for one in held["tasks"] if one["task"] == task):
                        for style, share in told["styles"].items():
                            found.setdefault(style, []).append(share)
                shares = sorted((-sum(v) / len(cells.seeds(eta)), style) for style, v in found.items())
                row.append(", ".join(f"{style.replace('_', ' ')} {-100 * s:.0f}" for s, style in shares if s < -0.005))
            rows.append(row)
    return table(["task", "η", "teacher", "GKD's student"], rows)


def causes(cells: Cells, strong: float) -> list[str]:
    by_place: dict[tuple[int, str, str], dict[float, Result]] = {}
    for row in causal([record for record in cells.records if not record.result["variant"]]):
        by_place.setdefault((row["seed"], row["task"], f"{row['measure']} ({row['unit']})"), {})[row["eta"]] = row
    rows = []
    for (seed, task, measure), found in by_place.items():
        shown = []
        for eta in (-strong, strong):
            row = found.get(eta)
            if row is None or row["difference"] is None:
                shown.append("–")
            else:
                shown.append(f"{row['difference']:+.3f} [{row['interval'][0]:+.3f}, {row['interval'][1]:+.3f}]")
        rows.append([str(seed), f"{task}, {measure}", f"{found[0.0]['value']:.3f}", *shown])
    header = ["seed", "task, measure", "original", f"η = {-strong:+g} − original", f"η = {strong:+g} − original"]
    return table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path, help="file of finished cells, .jsonl.gz")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="also draw the first task's curve, as SVG")
    parser.add_argument("--strong", type=float, default=0.5, help="|η| of the two teachers that the demands are about")
    arguments = parser.parse_args()
    records = list(read_cells(arguments.cells).values())
    cells = Cells(records)
    tasks = list(next(iter(cells.results.values()))["teacher_scores"]["scores"])
    lines = [
        f"{len(records)} cells; % right (mean score on instruct), 95 % intervals by problem; differences in points."
    ]
    for title, part in (
        ("The curve", curve(cells, tasks)),
        ("Seed by seed", by_seed(cells, tasks)),
        ("The calibrations", calibrations(cells)),
        ("What was asked", asked(cells, tasks, arguments.strong)),
        ("Controls", controls(cells, tasks, arguments.strong)),
        ("Students trained longer", longer(cells, tasks, arguments.strong)),
        ("Variants", variants(cells, tasks)),
        ("Ways of writing, % of the answers", ways(cells, tasks)),
        ("What the lens says of each teacher", causes(cells, arguments.strong)),
    ):
        lines += ["", f"### {title}", *part]
    print("\n".join(lines))
    if arguments.figure:
        arguments.figure.write_text(curve_figure(cells, tasks[0]), encoding="utf-8")


if __name__ == "__main__":
    main()
