"""These sections show each attack and control with its threat model, and what makes the figures doubtful."""

from __future__ import annotations

from distillknob.report.drawing.markup import (
    Child,
    Html,
    Row,
    Section,
    count,
    details,
    join,
    mapping,
    number,
    percent,
    percent_range,
    plural,
    points,
    points_range,
    rows,
    table,
    tag,
    text,
    with_range,
)
from distillknob.report.read import Source


def arms_section(source: Source) -> Section:
    """Show all attacks and controls, those that recovered most first."""
    arms = rows(source.main.result.get("arms"))
    if not arms:
        return Section("arms", "Attacks and controls", None, source.nothing("no attack has been mounted"))
    attacks = sorted((row for row in arms if row.get("control") is not True), key=_rank)
    controls = [row for row in arms if row.get("control") is True]
    done = [row for row in attacks if row.get("state") == "done"]
    takeaway = (
        f"{len(done)} of {plural(len(attacks), 'attack')} were mounted, beside {plural(len(controls), 'control')}."
    )
    shown = join(
        tag("h3", "Attacks"),
        _table(attacks) if attacks else source.nothing("no attack has been mounted"),
        tag("h3", "Controls, by which R is reckoned") if controls else None,
        _table(controls) if controls else None,
        _reasons(arms),
        _teachers(rows(source.main.result.get("targets"))),
    )
    return Section("arms", "Attacks and controls", takeaway, shown)


def _rank(row: Row) -> float:
    share = number(row.get("recovered"))
    return float("inf") if share is None else -share


def _table(arms: list[Row]) -> Html:
    body: list[list[Child]] = []
    for row in arms:
        cost, seeds = mapping(row.get("cost")), row.get("seeds")
        body.append(
            [
                text(row.get("target")),
                text(row.get("attack")),
                text(row.get("attacker")),
                text(mapping(row.get("access")).get("text")),
                text(row.get("state")),
                with_range(percent(row.get("recovered")), percent_range(row.get("recovered_interval"))),
                percent_range(row.get("simultaneous")),
                with_range(percent(row.get("score")), percent_range(row.get("interval"))),
                percent(row.get("finished_rate")),
                percent(row.get("score_given_finished")),
                count(cost.get("queries")),
                count(cost.get("tokens")),
                count(cost.get("trained_tokens")),
                count(len(seeds)) if isinstance(seeds, list) else text(seeds),
            ]
        )
    head = ["Teacher", "Attack", "Attacker", "Threat model", "State", "Recovered", "All attacks at once", "Score"]
    head += ["Finished", "Right of finished", "Answers asked", "Tokens asked", "Tokens trained", "Trainings"]
    return table(head, body, numeric_from=5)


def _reasons(arms: list[Row]) -> Child:
    """Why each attack might work, and why one wasn't mounted."""
    lines = [f"{text(row.get('attack'))}: {text(row.get('why'))}" for row in arms]
    for row in arms:
        if row.get("reason"):
            which = f"{text(row.get('attack'))} on {text(row.get('target'))} by {text(row.get('attacker'))}"
            lines.append(f"{which}, {text(row.get('state'))}: {text(row.get('reason'))}")
    lines = list(dict.fromkeys(lines))
    return details("Why each might work, and what kept some from it", tag("ul", [tag("li", line) for line in lines]))


def _teachers(targets: list[Row]) -> Child:
    """What each defence costs its teacher."""
    if not targets:
        return None
    body: list[list[Child]] = []
    for row in targets:
        utility = mapping(row.get("utility"))
        original = row.get("original") is True
        difference = with_range(points(utility.get("difference")), points_range(utility.get("difference_interval")))
        body.append(
            [
                text(row.get("target")),
                text(row.get("spec")),
                text(row.get("defence")),
                with_range(percent(utility.get("score")), percent_range(utility.get("interval"))),
                "the original" if original else difference,
            ]
        )
    head = ["Teacher", "Given as", "Defence", "Its own score", "− original, points"]
    return join(tag("h3", "What the defences cost their teachers"), table(head, body, numeric_from=3))


def doubts_section(source: Source) -> Section:
    """Show whether the suite finds what was planted, the flags, and the cells that failed."""
    result = source.main.result
    planted, flags, failed = (rows(result.get(key)) for key in ("planted", "flags", "failed"))
    passed = [row for row in planted if row.get("passed") is True]
    body: list[list[Child]] = [
        [
            text(row.get("planted")),
            text(row.get("demand")),
            tag(
                "span", "passed" if row in passed else "failed", class_=f"badge {'right' if row in passed else 'high'}"
            ),
            with_range(percent(row.get("recovered")), percent_range(row.get("interval"))),
        ]
        for row in planted
    ]
    lists = [
        ("Flags", [f"{text(row.get('target'))}: {text(row.get('flag'))}: {text(row.get('text'))}" for row in flags]),
        ("Failed cells", [f"{text(row.get('cell'))}: {text(row.get('reason'))}" for row in failed]),
    ]
    shown = join(
        table(["Planted defence", "What has to come out", "Came out", "Recovered"], body, numeric_from=3)
        if body
        else None,
        *(join(tag("h3", title), tag("ul", [tag("li", line) for line in lines])) for title, lines in lists if lines),
    )
    guarded = f"Of {plural(len(planted), 'planted defence')} the suite found {len(passed)}"
    if not planted:
        guarded = "No planted defence was attacked, so that nothing shows what the suite can find"
    takeaway = f"{guarded}; {plural(len(flags), 'flag')}, {plural(len(failed), 'failed cell')}."
    return Section("doubts", "What makes the figures doubtful", takeaway, shown)
