"""What makes a figure doubtful, looked for by rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from distillknob.attacks.measured import Row
from distillknob.attacks.suite import Suite
from distillknob.attacks.target import Target
from distillknob.attacks.verdict import best_by_validation, of
from distillknob.results.attacks import FlagRow, Utility

LEAST_FINISHED = 0.95


def flags(
    rows: Sequence[Row],
    targets: Sequence[Target],
    utilities: Mapping[str, Utility],
    *,
    tolerance: float,
    suite: Suite,
    tasks: int,
) -> list[FlagRow]:
    """Return the flags of all targets, by the attacker of most arms."""
    problems = suite.problems * tasks
    attacker = rows[0].cell.attacker if rows else ""
    own = [row for row in rows if row.cell.attacker == attacker and row.measured is not None]
    tiers = suite.tiers.values()  # beyond all of them, such as public solutions to every problem: no attacker's
    free = [row for row in own if row.arm.teacher_free and any(row.arm.access.within(tier) for tier in tiers)]
    listed: list[FlagRow] = []
    for target in targets:
        of_target = [row for row in own if row.cell.target.label == target.label and not row.arm.teacher_free]
        attacks = [row for row in of_target if not row.arm.control]
        lines = [
            *_order(attacks),
            *_solo(attacks, free),
            *_unfinished([*of_target, *(free if target.original else [])]),
            *_once(target, attacks),
            *_asked(attacks, problems),
            *_utility(utilities.get(target.label), tolerance),
        ]
        listed += [{"target": target.label, "flag": flag, "text": text} for flag, text in lines]
    return listed


def _order(attacks: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """An attack that does more shouldn't get less."""
    plain = [row for row in attacks if row.arm.kind == "traces"]
    adaptive = [row for row in attacks if row.arm.kind not in ("traces", "answers")]
    answers = [row for row in attacks if row.arm.kind == "answers"]
    best_plain, best_adaptive = best_by_validation(plain), best_by_validation(adaptive)
    if best_plain and best_adaptive and of(best_plain).score > of(best_adaptive).score:
        yield (
            "passive above adaptive",
            f"{best_plain.arm.name} gets {_percent(best_plain)}, the best adaptive attack {best_adaptive.arm.name} "
            f"{_percent(best_adaptive)}: the adaptive attacks may be too weak",
        )
    if best_plain and answers and of(answers[0]).score > of(best_plain).score:
        yield (
            "answers above traces",
            f"final answers alone get {_percent(answers[0])}, traces {_percent(best_plain)}: the working harms",
        )


def _solo(attacks: Sequence[Row], free: Sequence[Row]) -> Iterator[tuple[str, str]]:
    alone, best = best_by_validation(free), best_by_validation(attacks)
    if alone and best and of(alone).score >= of(best).score:
        yield (
            "no teacher needed",
            f"{alone.arm.name} gets {_percent(alone)} without the teacher, the best attack {best.arm.name} "
            f"{_percent(best)}: as a way to this score the teacher is irrelevant, which isn't a defence that broke",
        )


def _unfinished(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    for row in rows:
        measured = of(row)
        if measured.finished_rate < LEAST_FINISHED:
            given = measured.score_given_finished
            right = "" if given is None else f"; of those that ended {100 * given:.1f} % are right"
            yield (
                "answers not finished",
                f"{row.arm.name}: {100 * measured.finished_rate:.0f} % of the student's answers ended{right}",
            )


def _once(target: Target, attacks: Sequence[Row]) -> Iterator[tuple[str, str]]:
    fewest = min((len(of(row).seeds) for row in attacks), default=0)
    if attacks and fewest < 2:
        drawn = ", and a defence that draws at random was drawn once" if target.defence is not None else ""
        yield (
            "one training",
            f"{sum(len(of(row).seeds) < 2 for row in attacks)} of {len(attacks)} attacks were trained once{drawn}: "
            "their intervals don't hold for another training",
        )


def _asked(attacks: Sequence[Row], problems: int) -> Iterator[tuple[str, str]]:
    """An attack that took more answers than its threat model says stands at too low a tier."""
    for row in attacks:
        took = of(row).cost["queries"] / problems
        if row.arm.access.interface != "weights" and took > 1.01 * row.arm.access.queries:
            yield (
                "more queries than stated",
                f"{row.arm.name} took {took:.0f}× the problems in answers or scored texts, and its threat model says "
                f"{row.arm.access.queries:g}×",
            )


def _utility(utility: Utility | None, tolerance: float) -> Iterator[tuple[str, str]]:
    if utility is None:
        return
    low, high = utility["difference_interval"]
    if high is not None and high < -tolerance:
        yield (
            "utility lost",
            f"the teacher lost {-100 * utility['difference']:.1f} points [{-100 * high:.1f}, "
            f"{-100 * (low or 0.0):.1f}], and {100 * tolerance:.1f} were allowed",
        )
    elif low is not None and high is not None and low < -tolerance < high:
        yield (
            "utility not resolved",
            f"the teacher's score changed by {100 * utility['difference']:+.1f} points [{100 * low:+.1f}, "
            f"{100 * high:+.1f}]: it may have lost more than {100 * tolerance:.1f}, or less",
        )


def _percent(row: Row) -> str:
    return f"{100 * of(row).score:.1f} %"
