"""These sections stand beside the knob curve: what each calibration came to, the causal table, what the knob did alone,
and the controls (variants)."""

from __future__ import annotations

from distillknob.report.drawing.markup import (
    MISSING,
    Child,
    Html,
    Row,
    Section,
    bounds,
    decimal,
    decimal_range,
    details,
    join,
    listed,
    mapping,
    number,
    plural,
    points,
    points_range,
    rows,
    table,
    text,
    with_range,
)
from distillknob.report.names import method_name, signed_eta
from distillknob.report.read import Source
from distillknob.report.rows import distinct, where, with_range_text
from distillknob.report.sections.trainings import trainings_text
from distillknob.verdicts.teachers import verdict_of


def calibrations_table(result: Row) -> Html | None:
    """Show how each calibration went: the step that the guard kept, β at the end, and how far the teacher moved."""
    body: list[list[Child]] = []
    seen = set()
    for row in rows(result.get("teachers")):
        made, place = mapping(row.get("calibration")), (text(row.get("seed")), number(row.get("eta")))
        if not made or place in seen:
            continue
        seen.add(place)
        steps = f"{text(made.get('kept_step'))} of {text(made.get('steps'))}"
        figures = [decimal(made.get(name)) for name in ("final_beta", "anchor_kl", "log_ratio")]
        verdict = verdict_of(made)
        body.append(
            [signed_eta(row.get("eta")), text(row.get("seed")), verdict, steps, *figures, text(made.get("outcome"))]
        )
    if not body:
        return None
    head = [
        "η",
        "Seed",
        "The knob",
        "Step kept",
        "Final β",
        "KL to the original, nats/token",
        "Log-ratio, nats/answer",
        "Outcome",
    ]
    return details("What each calibration came to", table(head, body))


def causal_section(source: Source) -> Section | None:
    """Show what the diagnosis measures under each teacher, against the original; None where no teacher was
    diagnosed."""
    causal = rows(source.main.result.get("causal"))
    if not causal:
        return None
    etas = sorted({eta for row in causal if (eta := number(row.get("eta"))) is not None})
    body: list[list[Child]] = []
    moved = measured = 0
    for seed in distinct(causal, "seed"):
        for task in distinct(causal, "task"):
            for measure in distinct(where(causal, seed=seed, task=task), "measure"):
                own = {number(row.get("eta")): row for row in where(causal, seed=seed, task=task, measure=measure)}
                unit = text(next(iter(own.values())).get("unit"))
                cells: list[Child] = []
                for eta in etas:
                    row = own.get(eta, {})
                    if eta == 0:
                        cells.append(decimal(row.get("value")))
                        continue
                    gap, span = row.get("difference"), bounds(row.get("interval"))
                    measured += span is not None
                    moved += span is not None and (span[0] > 0 or span[1] < 0)
                    cells.append(with_range(decimal(gap), decimal_range(row.get("interval"))))
                body.append([f"{task}, {measure}".replace("_", " "), unit, seed, *cells])
    head = ["Measure", "Unit", "Seed", *("original" if eta == 0 else f"{signed_eta(eta)} − original" for eta in etas)]
    takeaway = f"Of {measured} differences to the original, {moved} have an interval off zero."
    return Section("causal", "What the calibration changed", takeaway, table(head, body, numeric_from=3))


def knob_alone_section(source: Source) -> Section | None:
    """Show how far the students of turned teachers are from those of a teacher calibrated at η = 0; None where no such
    teacher was made."""
    result = source.main.result
    differences = rows(result.get("knob_alone"))
    if not differences:
        return None
    over = where(rows(result.get("over_seeds")), a="task_alone", measure="score")
    body: list[list[Child]] = []
    for row in over:
        names: list[Child] = [signed_eta(row.get("eta")), method_name(row.get("who")), text(row.get("task"))]
        change = with_range(points(row.get("difference")), trainings_text(row))
        seeds = row.get("seeds")
        count = len(seeds) if isinstance(seeds, list) else 0
        body.append([*names, change, points_range(row.get("problems")), plural(count, "training")])
    single: list[list[Child]] = []
    for row in differences:
        change = with_range(points(row.get("difference")), points_range(row.get("interval")))
        names = [text(row.get("label")), text(row.get("seed")), method_name(row.get("method")), text(row.get("task"))]
        single.append([*names, change])
    takeaway = (
        "A calibration also trains the teacher on the task, and its students may gain by that alone. Here each student "
        "of a turned teacher stands beside that of a teacher calibrated at η = 0."
    )
    together = table(["η", "Method", "Task", "Over trainings", "Over problems", "Trainings"], body, numeric_from=3)
    each = table(["Teacher", "Seed", "Method", "Task", "− student of η = 0, points"], single, numeric_from=4)
    return Section("knob-alone", "What the knob did alone", takeaway, join(together, details("Each training", each)))


def variants_section(source: Source) -> Section | None:
    """Show the controls: cells with other settings, against the original teacher's students."""
    variants = mapping(source.main.result.get("variants"))
    differences = rows(variants.get("differences"))
    if not differences:
        return None
    body: list[list[Child]] = []
    for row in differences:
        place = {key: row.get(key) for key in ("variant", "eta", "seed", "method", "task")}
        student = next(iter(where(rows(variants.get("students")), **place)), {})
        change = with_range(points(row.get("difference")), points_range(row.get("interval")))
        names: list[Child] = [text(place["variant"]), signed_eta(place["eta"]), text(place["seed"])]
        shown = with_range_text(student, "pass@1", "interval") if student else MISSING
        body.append([*names, method_name(place["method"]), text(place["task"]), shown, change])
    takeaway = f"Cells with other settings: {listed(distinct(differences, 'variant'))}."
    head = ["Variant", "η", "Seed", "Method", "Task", "Student, %", "− student of the original, points"]
    return Section("variants", "Controls", takeaway, table(head, body, numeric_from=5))
