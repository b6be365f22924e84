"""This section shows what an extractor gets from each teacher: verdicts, the worst case by attacker, and the price."""

from __future__ import annotations

from distillknob.report.drawing.markup import (
    MISSING,
    Child,
    Html,
    Row,
    Section,
    bounds,
    count,
    details,
    join,
    mapping,
    number,
    percent,
    percent_range,
    plural,
    rows,
    table,
    tag,
    text,
    with_range,
)
from distillknob.report.drawing.plots import Series, line_plot, whole_percent
from distillknob.report.drawing.svg import Number, Scale, figure
from distillknob.report.names import series_style
from distillknob.report.read import Source
from distillknob.report.rows import distinct, where
from distillknob.verdicts.extractors import arm_of, gravest, owner_sentence

_TONES = {"broken": "high", "partly": "medium", "can't tell": "low", "irrelevant": "low", "protects": "right"}


def verdicts_section(source: Source) -> Section:
    """Show the verdict on each teacher, the worst case by attacker, and what R costs."""
    result, title = source.main.result, "What an extractor gets"
    worst = rows(result.get("worst"))
    refused = result.get("refused")
    if isinstance(refused, str) and refused:
        told = tag("p", f"No verdicts are given: {refused}.", class_="not-run")
        return Section("result", title, "This attack shows nothing about its teachers.", join(told, _curves(result)))
    if not worst:
        return Section("result", title, None, join(source.nothing("there is no verdict"), _curves(result)))
    arms = rows(result.get("arms"))
    said = {name: owner_sentence(name, own, arms) for name, own in by_target(result)}
    one = gravest([row for _, own in by_target(result) for row in own]) or {}
    takeaway = said.get(text(one.get("target")), "")
    lines = tag("ul", [tag("li", line) for line in said.values()])
    each = details("What may be said to the owner of each teacher", lines) if len(said) > 1 else None
    return Section("result", title, takeaway, join(each, _matrix(result), _curves(result), _verdicts(result, arms)))


def by_target(result: Row) -> list[tuple[str, list[Row]]]:
    """Return the verdicts on each defended teacher; on the original alone where there is no other."""
    worst = rows(result.get("worst"))
    originals = {str(row.get("target")) for row in rows(result.get("targets")) if row.get("original") is True}
    names = distinct(worst, "target")
    defended = [name for name in names if name not in originals] or names
    return [(name, where(worst, target=name)) for name in defended]


def _badge(row: Row) -> Html:
    word = text(row.get("verdict"))
    return tag("span", word, class_=f"badge {_TONES.get(word, 'none')}")


def _share(row: Row) -> Html:
    return with_range(percent(row.get("recovered")), percent_range(row.get("interval")))


def _matrix(result: Row) -> Child:
    """The highest R of each target and attacker over the tiers."""
    worst = rows(result.get("worst"))
    attackers = distinct(worst, "attacker")
    body: list[list[Child]] = []
    for target in distinct(worst, "target"):
        line: list[Child] = [target]
        for attacker in attackers:
            own = where(worst, target=target, attacker=attacker)
            defined = [row for row in own if number(row.get("recovered")) is not None]
            if defined:
                row = max(defined, key=lambda one: number(one.get("recovered")) or 0.0)
                line.append(join(_share(row), tag("small", f" {text(row.get('attack'))}, {text(row.get('tier'))}")))
            else:
                one = gravest(own)
                line.append(MISSING if one is None else text(one.get("verdict")))
        body.append(line)
    head = ["Worst case over the tiers", *(f"by {attacker}" for attacker in attackers)]
    return table(head, body)


def _verdicts(result: Row, arms: list[Row]) -> Html:
    """A row for each tier of each defended teacher: of the original, which nothing defends, there is nothing to say."""
    body: list[list[Child]] = []
    for row in (row for _, own in by_target(result) for row in own):
        cost = mapping(arm_of(row, arms).get("cost"))
        references = [mapping(row.get(key)) for key in ("control", "undefended")]
        body.append(
            [
                text(row.get("target")),
                text(row.get("attacker")),
                join(text(row.get("tier")), tag("small", f" {text(mapping(row.get('access')).get('text'))}")),
                _badge(row),
                text(row.get("attack")),
                _share(row),
                count(cost.get("queries")),
                text(row.get("seeds")),
                *(
                    join(
                        with_range(percent(one.get("score")), percent_range(one.get("interval"))),
                        f" {one.get('attack')}",
                    )
                    if one
                    else MISSING
                    for one in references
                ),
                text(row.get("why")),
            ]
        )
    head = ["Teacher", "Attacker", "Tier", "Verdict", "Worst attack", "Recovered", "Answers asked", "Trainings"]
    return table([*head, "Without the teacher", "From the original", "Why"], body, numeric_from=5)


def _curves(result: Row) -> Child:
    """R against the queries, a panel a target and attacker, a line a kind of attack."""
    curves = [row for row in rows(result.get("curves")) if _points(row)]
    if not curves:
        return None
    kinds = list(dict.fromkeys(text(row.get("kind")) for row in curves))
    priced = [point for row in curves for point in _points(row)]
    x = Scale.fit([number(point.get("queries")) for point in priced], log=True)
    ends = [end for point in priced for end in (bounds(point.get("interval")) or ())]
    y = Scale.fit(
        [*(number(point.get("value")) for point in priced), *(max(min(end, 2.0), -1.0) for end in ends)], include=(0, 1)
    )
    pairs: dict[tuple[str, str], list[Series]] = {}
    for row in curves:
        kind, points = text(row.get("kind")), _points(row)
        line = Series(
            kind,
            series_style(kinds.index(kind)),
            [number(point.get("queries")) for point in points],
            [number(point.get("value")) for point in points],
            [bounds(point.get("interval")) for point in points],
        )
        pairs.setdefault((text(row.get("target")), text(row.get("attacker"))), []).append(line)
    levels: list[tuple[Number, str, str]] = [
        (0.0, "chance", "no more than without the teacher"),
        (1.0, "kept", "all that the original teaches"),
    ]
    panels = [
        line_plot(
            f"{target}, by {attacker}",
            series,
            x,
            y,
            x_label="answers a problem",
            y_format=whole_percent,
            value_format=percent,
            rules=levels,
        )
        for (target, attacker), series in pairs.items()
    ]
    caption = (
        "What an attack recovers for the answers that it asks for. 0 % is the best student without the teacher, 100 % "
        "the best student of the original: a defence raises the price of what lies between. Lines are 95 % intervals. "
        f"{plural(len(priced), 'point')}."
    )
    return figure(panels, caption, [(*series_style(index), kind) for index, kind in enumerate(kinds)])


def _points(row: Row) -> list[Row]:
    """The points of a curve that can be drawn on an axis of logarithms."""
    points = rows(row.get("points"))
    return [
        point for point in points if (number(point.get("queries")) or 0) > 0 and number(point.get("value")) is not None
    ]
