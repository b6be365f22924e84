"""This section shows the differences of a sweep over its seeds, pair by pair: what another training would give first,
what other problems would second. Beside them stand what a student could gain or lose in principle, and the models."""

from __future__ import annotations

from collections.abc import Sequence

from distillknob.report.drawing.markup import (
    Child,
    Html,
    Row,
    Section,
    bounds,
    details,
    join,
    mapping,
    number,
    plural,
    points,
    points_range,
    rows,
    table,
    tag,
    text,
)
from distillknob.report.names import method_name, signed_eta
from distillknob.report.read import Source
from distillknob.report.rows import where

ONE = "one training"


def trainings_section(source: Source) -> Section | None:
    """Show each difference over the seeds with both intervals, a table a pair; None where there are no seeds to go
    over."""
    result = source.main.result
    differences = where(rows(result.get("over_seeds")), a="original", measure="score")
    if not differences:
        return None
    pairs = rows(result.get("pairs"))
    parts = []
    for pair in pairs:
        named = pair.get("variants")
        variants = [str(name) for name in named] if isinstance(named, list) else []
        own = [row for row in differences if str(row.get("variant")) in variants]
        heading = tag("h3", f"{text(pair.get('teacher'))} → {text(pair.get('student'))}") if len(pairs) > 1 else None
        parts.append(join(heading, _differences_table(own) if own else None, _models_table(pair)))
    return Section("trainings", "Over the trainings", _takeaway(differences), join(*parts, bounds_table(result)))


def trainings_text(row: Row) -> str:
    """Write the interval over trainings, or that there is one training."""
    return points_range(row.get("trainings")) or ONE


def _takeaway(differences: Sequence[Row]) -> str:
    spans = [pair for row in differences if (pair := bounds(row.get("trainings"))) is not None]
    if not spans:
        return "One training of each: whether another would give the same isn't known."
    off = sum(low > 0 or high < 0 for low, high in spans)
    return f"Of {plural(len(spans), 'difference')} to the original over several trainings, {off} are off zero."


def _differences_table(differences: Sequence[Row]) -> Html:
    body: list[list[Child]] = []
    for row in differences:
        who = "teacher" if row.get("who") == "teacher" else method_name(row.get("who"))
        by_seed = row.get("by_seed")
        each = " ".join(points(value) for value in by_seed) if isinstance(by_seed, list) else ""
        place: list[Child] = [text(row.get("variant") or "–"), signed_eta(number(row.get("eta"))), who]
        figures = [points(row.get("difference")), trainings_text(row), points_range(row.get("problems")), each]
        body.append([*place, text(row.get("task")), *figures])
    head = ["Variant", "η", "Who", "Task", "− original, points", "over trainings", "over problems", "seed by seed"]
    return details(f"{plural(len(body), 'difference')} over the seeds", table(head, body, numeric_from=4))


def bounds_table(result: Row) -> Html | None:
    """Show what students could gain or lose in principle: by their teacher's writing in its best or worst way alone."""
    body: list[list[Child]] = []
    for row in rows(result.get("bounds")):
        pair = f"{text(row.get('teacher'))} → {text(row.get('student'))}"
        for end in ("best", "worst"):
            way = mapping(row.get(end))
            figures = [points(way.get("difference")), trainings_text(way), points_range(way.get("problems"))]
            name = text(way.get("way")).replace("_", " ")
            body.append([pair, text(row.get("task")), method_name(row.get("method")), f"{end}: {name}", *figures])
    if not body:
        return None
    head = ["Pair", "Task", "Method", "Way", "− all right answers, points", "over trainings", "over problems"]
    title = tag("h3", "What a student could gain or lose in principle")
    return join(title, table(head, body, numeric_from=4))


def _models_table(pair: Row) -> Html | None:
    """Show by what the pair's models are known: the hash of their weights, and the command that builds them."""
    body: list[list[Child]] = []
    for name, model in mapping(pair.get("models")).items():
        about = mapping(model)
        digests = [str(digest) for digest in mapping(about.get("weights")).values()]
        body.append([text(name), tag("code", " ".join(digests) or "not recorded"), text(about.get("built_by") or "–")])
    return details("The models", table(["Model", "Weights", "Built by"], body, numeric_from=3)) if body else None
