"""What sweeps say of the knob, from their files of kept cells alone: Markdown on stdout.

    distillknob sweep recipes/embedded.yaml --kept docs/evidence/cells.jsonl.gz --output runs/sweep
    python benchmarks/evidence.py docs/evidence/cells.jsonl.gz --figure docs/evidence/curve.svg > docs/evidence/table.md

First what was asked (`demands`), on every arm of every file; then, file by file, the tables. Needs no models and no
samples: each cell's result holds its problems' scores. A figure over several seeds has two intervals: **the first is
over trainings** (Student's t, the seeds as units: what another training would give), the second over problems (the
trainings as they are, each problem's score its mean over the seeds). Cells that are missing are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from demands import Demand, arm_name, arms, figure

from distillknob.errors import BadInputError
from distillknob.experiments.bounds import bounds
from distillknob.experiments.counterparts import Counterparts, pairs
from distillknob.experiments.over_seeds import difference_over_seeds, over_seeds
from distillknob.experiments.tables import causal
from distillknob.methods import METHODS as KNOWN
from distillknob.report.drawing.markup import Html, tag
from distillknob.report.drawing.markup import percent as percent_of
from distillknob.report.drawing.plots import Series, line_plot, whole_percent
from distillknob.report.drawing.svg import Scale, mark
from distillknob.report.names import method_name, series_style, signed_eta
from distillknob.runs.kept import CellRecord, read_cells
from distillknob.stats import interval
from distillknob.verdicts.teachers import verdict_of

Result = dict[str, Any]
Key = tuple[float, str, int]  # η, variant, seed
METHODS = ("gkd", "opd_rkl", "sft", "sft_verified")  # those of the figure


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "",
        f"| {' | '.join(header)} |",
        "|" + "---|" * len(header),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


class Cells:
    """The finished cells of one file, looked up by η, variant and seed."""

    def __init__(self, records: Sequence[CellRecord]):
        self.records = list(records)
        self.results: dict[Key, Any] = {}
        for record in records:
            result = record.result
            self.results[result["eta"], result["variant"], result["seed"]] = result

    @property
    def variants(self) -> list[str]:
        """The names of the variants; the grid's, which is empty, first."""
        return sorted({variant for _, variant, _ in self.results})

    @property
    def etas(self) -> list[float]:
        return self.etas_of("")

    def etas_of(self, variant: str) -> list[float]:
        return sorted({eta for eta, name, _ in self.results if name == variant})

    def seeds(self, eta: float, variant: str = "") -> list[int]:
        """The seeds of the variant's cells at this η."""
        return sorted(seed for one, name, seed in self.results if (one, name) == (eta, variant))

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(task for cell in self.results.values() for task in cell["teacher_scores"]["scores"]))

    def whos(self, variant: str) -> list[str]:
        """The teacher, and the methods of the variant's students in the report's order."""
        held = {who for (_, name, _), cell in self.results.items() if name == variant for who in cell["students"]}
        return ["teacher", *sorted(held, key=["none", *KNOWN].index)]

    def scores(self, who: str, eta: float, task: str, variant: str = "", measure: str = "scores") -> list[np.ndarray]:
        """Each problem's figure, in each seed that has this teacher or student."""
        held = []
        for seed in self.seeds(eta, variant):
            cell = self.results[eta, variant, seed]
            own = cell["teacher_scores"] if who == "teacher" else cell["students"].get(who)
            values = None if own is None else own.get(measure, {}).get(task)
            held += [] if values is None else [np.array(values)]
        return held

    def mean(self, who: str, eta: float, task: str) -> np.ndarray | None:
        """Each problem's figure, the mean over the seeds of the grid that have this teacher or student."""
        held = self.scores(who, eta, task)
        return np.mean(held, axis=0) if held else None


def level(by_seed: Sequence[np.ndarray]) -> str:
    """A score in % with its interval over trainings, and then that over problems."""
    if not by_seed:
        return "–"
    whole = interval(np.mean(by_seed, axis=0))
    over = "one training"
    if len(by_seed) > 1:
        seeds = interval([float(values.mean()) for values in by_seed], proportion=False)
        over = f"[{100 * seeds.low:.1f}, {100 * seeds.high:.1f}]"
    return f"{100 * whole.mean:.1f} {over} · [{100 * whole.low:.1f}, {100 * whole.high:.1f}]"


def asked(demands: Sequence[tuple[str, Demand]]) -> list[str]:
    """Each demand with what was measured."""
    words = {True: "yes", False: "**no**", None: "–"}
    rows = [[file, one.arm, one.asked, one.measured, words[one.met]] for file, one in demands]
    return table(["sweep", "arm", "asked", "measured, points", "met"], rows)


def of_which_models(cells: Cells) -> list[str]:
    """The pairs, their arms, and by what their models are known."""
    rows = []
    for pair in pairs(cells.records):
        names = ", ".join(map(arm_name, pair["variants"]))
        rows.append([f"{pair['teacher']} → {pair['student']}", names, "", "", ""])
        for model, about in pair["models"].items():
            digests = ", ".join(digest[:16] for digest in about["weights"].values()) or "not recorded"
            rows.append(["", "", model, digests, f"`{about['built_by']}`" if about["built_by"] else "–"])
    return table(["pair", "arms", "model", "SHA-256 of its weights", "built by"], rows)


def settings(cells: Cells) -> list[str]:
    """What each arm's calibrations and students were told that the grid's weren't."""
    grid = next((record for record in cells.records if not record.result["variant"]), cells.records[0])
    common = dict(_flat(grid.config["recipe"]))
    rows = []
    for variant in filter(None, cells.variants):
        own = next(record for record in cells.records if record.result["variant"] == variant)
        told = [f"{key}: {value}" for key, value in _flat(own.config["recipe"]) if common.get(key) != value]
        rows.append([variant, ", ".join(told) or "other cells alone"])
    return table(["arm", "what differs from the grid"], rows) if rows else ["", "The grid alone."]


def _flat(recipe: Any, at: str = "") -> list[tuple[str, Any]]:
    return [
        pair
        for key, value in recipe.items()
        for pair in (_flat(value, f"{at}{key}.") if isinstance(value, dict) and value else [(f"{at}{key}", value)])
    ]


def curve(cells: Cells) -> list[str]:
    """The scores of teachers and students at each η, arm by arm."""
    lines = []
    for variant in cells.variants:
        whos, etas = cells.whos(variant), cells.etas_of(variant)
        for task in cells.tasks:
            for measure in ("scores", *sorted(_measured_at_k(cells, variant))):
                rows = []
                for eta in etas:
                    shown = [level(cells.scores(who, eta, task, variant, measure)) for who in whos]
                    rows.append([f"{eta:+g}", ", ".join(map(str, cells.seeds(eta, variant))), *shown])
                if any(cell != "–" for row in rows for cell in row[2:]):
                    name = task if measure == "scores" else f"{task}, {measure}"
                    lines += ["", f"**{arm_name(variant)}, {name}**", *table(["η", "seeds", *whos], rows)]
    held = (cell[part] for cell in cells.results.values() for part in ("teacher_scores",))
    told = [row for one in held for row in one["tasks"]]
    told += [row for cell in cells.results.values() for one in cell["students"].values() for row in one["tasks"]]
    chances = {row["task"]: row["chance"] for row in told}
    shown = ", ".join(f"{task} {100 * value:.1f}" for task, value in chances.items())
    rate = 100 * min(row["finished_rate"] for row in told)
    return [*lines, "", f"Chance: {shown} %. Every teacher and every student finishes at least {rate:.1f} %."]


def _measured_at_k(cells: Cells, variant: str) -> set[str]:
    held = [cell["students"] for (_, name, _), cell in cells.results.items() if name == variant]
    return {key for students in held for student in students.values() for key in student if key.startswith("pass@")}


def differences(cells: Cells, a: str) -> list[str]:
    """The differences to `a`, over the seeds: arm by arm."""
    rows = []
    for row in over_seeds(cells.records):
        if row["a"] == a:
            each = "; ".join(f"{100 * gap:+.1f}" for gap in row["by_seed"])
            what = row["task"] if row["measure"] == "score" else f"{row['task']}, {row['measure']}"
            rows.append([arm_name(row["variant"]), f"{row['eta']:+g}", row["who"], what, figure(row), each])
    rows.sort(key=lambda row: (row[0] != arm_name(""), row[0], row[3], row[2], float(row[1])))
    return table(["arm", "η", "who", "task", "difference, points", "seed by seed"], rows) if rows else ["", "None."]


def rivals(cells: Cells, strong: float) -> list[str]:
    """Students of the distillable teachers beside the original's by ways that need no calibration: selection, the data
    set's own solutions."""
    beside = Counterparts(cells.records)
    needless = [name for name, method in KNOWN.items() if method.traces in ("teacher_best_of_n", "gold")]
    known: dict[tuple[str, ...], dict[int, tuple[list[float], list[float]]]] = {}
    for cell in (cell for cell in cells.records if cell.result["eta"] == -strong):
        for rival in needless:
            if (other := beside.student(cell, rival)) is None:
                continue
            theirs = other.result["students"][rival]["scores"]
            for method, student in cell.result["students"].items():
                for task, scores in student["scores"].items():
                    key = (arm_name(cell.result["variant"]), task, method, rival)
                    known.setdefault(key, {})[cell.result["seed"]] = (theirs[task], scores)
    rows = [[*key, figure(difference_over_seeds(sides))] for key, sides in sorted(known.items())]
    header = ["arm", "task", f"student of η = {-strong:+g}", "− the original's by", "difference, points"]
    return table(header, rows) if rows else ["", "None."]


def possible(cells: Cells) -> list[str]:
    """What a student could gain or lose in principle."""
    rows = [
        [f"{row['teacher']} → {row['student']}", row["task"], row["method"], f"{end}: {way['way']}", figure(way)]
        for row in bounds(cells.records)
        for end, way in (("best", row["best"]), ("worst", row["worst"]))
    ]
    header = ["pair", "task", "method", "way", "− all right answers, points"]
    return table(header, rows) if rows else ["", "No students of single ways were trained."]


def curve_figure(cells: Cells, task: str) -> str:
    """The curve of one task as an SVG file that stands by itself: teacher and students against η, with intervals."""
    x = Scale.fit(cells.etas)
    lines, entries = [], []
    for who in ("teacher", *METHODS):
        style = ("square", "of-none") if who == "teacher" else series_style(METHODS.index(who))
        known = [(eta, cells.mean(who, eta, task)) for eta in cells.etas]
        points = [(eta, interval(values)) for eta, values in known if values is not None]
        spread = [(found.low, found.high) for _, found in points]
        name = "teacher" if who == "teacher" else f"student, {method_name(who)}"
        lines.append(Series(name, style, [eta for eta, _ in points], [found.mean for _, found in points], spread))
        entries.append((*style, name))
    before = cells.mean("none", 0.0, task)
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
    inner = tag("g", panel.drawn, legend, transform="translate(20 14)")
    # The panel is an svg of its own, which takes its size from here.
    sized = str(inner).replace('viewBox="0 0 760 330"', 'viewBox="0 0 760 330" width="760" height="330"')
    whole = tag(
        "svg", tag("style", style), ground, Html(sized), xmlns="http://www.w3.org/2000/svg", viewBox="0 0 800 404"
    )
    return f"{whole}\n"


def calibrations(cells: Cells) -> list[str]:
    rows = []
    for eta, variant, seed in sorted(cells.results, key=lambda key: (key[1], key[0], key[2])):
        made = cells.results[eta, variant, seed]["calibration"]
        if made:
            measured = [("final_beta", ".3g"), ("anchor_kl", ".4f"), ("log_ratio", ".2f")]
            figures = ["–" if made[name] is None else format(made[name], form) for name, form in measured]
            step = f"{made['kept_step']} of {made['steps']}"
            rows.append([arm_name(variant), f"{eta:+g}", str(seed), verdict_of(made), step, *figures, made["outcome"]])
    anchor, ratio = "KL to the original, nats/token", "log-ratio, nats/answer"
    return table(["arm", "η", "seed", "the knob", "step kept", "final β", anchor, ratio, "outcome"], rows)


def ways(cells: Cells) -> list[str]:
    """How often teachers and GKD's students write in each way, the mean over seeds, in %."""
    rows = []
    for variant in cells.variants:
        for task in cells.tasks:
            for eta in cells.etas_of(variant):
                shown = [_ways_of(cells, who, eta, variant, task) for who in ("teacher", "gkd")]
                rows.append([arm_name(variant), task, f"{eta:+g}", *shown])
    return table(["arm", "task", "η", "teacher", "GKD's student"], rows)


def _ways_of(cells: Cells, who: str, eta: float, variant: str, task: str) -> str:
    shares: dict[str, list[float]] = {}
    seeds = cells.seeds(eta, variant)
    for seed in seeds:
        cell = cells.results[eta, variant, seed]
        held = cell["teacher_scores"] if who == "teacher" else cell["students"].get(who, {"tasks": []})
        for row in (row for row in held["tasks"] if row["task"] == task):
            for style, share in row["styles"].items():
                shares.setdefault(style, []).append(share)
    means = sorted(((sum(values) / len(seeds), style) for style, values in shares.items()), reverse=True)
    return ", ".join(f"{style.replace('_', ' ')} {100 * mean:.0f}" for mean, style in means if mean > 0.005) or "–"


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


def parts(cells: Cells, strong: float) -> list[tuple[str, list[str]]]:
    """The tables of one file with their titles."""
    return [
        ("Pairs and models", of_which_models(cells)),
        ("Arms", settings(cells)),
        ("Differences to the original by the same method and training", differences(cells, "original")),
        ("Differences to the student before distillation", differences(cells, "none")),
        ("The distillable teacher's students beside selection from the original", rivals(cells, strong)),
        ("What a student could gain or lose in principle", possible(cells)),
        ("Scores", curve(cells)),
        ("The calibrations", calibrations(cells)),
        ("Ways of writing, % of the answers", ways(cells)),
        ("What the lens says of each teacher", causes(cells, strong)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path, nargs="+", help="files of finished cells, .jsonl.gz")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="also draw the first file's first task, as SVG")
    parser.add_argument("--strong", type=float, default=0.5, help="|η| of the two teachers that the demands are about")
    arguments = parser.parse_args()
    sweeps = {}
    for path in arguments.cells:
        records = list(read_cells(path).values())
        if not records or not all(record.unchanged for record in records):
            raise BadInputError(f"{path} holds no cells, or one whose result isn't that of its manifest: restore it")
        sweeps[path.name.removesuffix(".jsonl.gz")] = Cells(records)
    demands = [
        (name, demand)
        for name, cells in sweeps.items()
        for arm in arms(cells.records, arguments.strong)
        for demand in arm.demands(arguments.strong)
    ]
    told = "% right (mean score on instruct); differences in points; 95 % intervals: over trainings · over problems."
    lines = [told, "", "## What was asked", *asked(demands)]
    for name, cells in sweeps.items():
        lines += ["", f"## {name}: {len(cells.records)} cells"]
        for title, part in parts(cells, arguments.strong):
            lines += ["", f"### {title}", *part]
    print("\n".join(lines))
    if arguments.figure:
        first = next(iter(sweeps.values()))
        arguments.figure.write_text(curve_figure(first, first.tasks[0]), encoding="utf-8")


if __name__ == "__main__":
    main()
