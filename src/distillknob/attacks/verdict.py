"""What the attacks say together: the recovered share of each, the worst at each tier, and a word for it.

R takes its control and its undefended arm from the same tier: the best teacher-free arm, and the best attack on the
original. A control has to train by the same budget as some attack of the tier. Reinforcement learning without a
teacher, which takes more steps and samples than SFT on traces, is a control where the teacher's scores help such
learning; elsewhere it is told beside the verdict. Control, undefended arm and worst attack are chosen on validation
problems, and what stands in the tables is scored on test problems, on which nothing was chosen.

    protects    the simultaneous upper bound of the worst attack's R lies at or below `words.protects`
    broken      its lower bound lies at or above `words.broken`
    partly      its lower bound lies above `words.protects`
    irrelevant  what is had without the teacher is better than what the original teaches: nothing to protect
    can't tell  anything else
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distillknob.attacks.access import Access
from distillknob.attacks.measured import Measured, Row
from distillknob.attacks.recovered import Gap, Share, recovered
from distillknob.attacks.suite import Planted, Words
from distillknob.results.attacks import CurveRow, PlantedRow, Point, Reference, Word, WorstRow
from distillknob.stats import paired_difference


@dataclass(frozen=True)
class Tier:
    """What there is at one tier against one target: the arms within it, the best one without the teacher, the best one
    on the original, the gap between these two, and R of each arm where it is identifiable. `beyond` is the best
    teacher-free arm with a larger budget."""

    name: str
    access: Access
    attacks: Mapping[str, Row]
    control: Row | None
    undefended: Row | None
    gap: Gap | None
    beyond: Row | None
    shares: Mapping[str, Share]

    @property
    def worst(self) -> Row | None:
        """The attack that does best on validation problems."""
        return best_by_validation(list(self.attacks.values()))


def best_by_validation(rows: Sequence[Row]) -> Row | None:
    trained = [row for row in rows if row.measured is not None]
    return max(trained, key=lambda row: of(row).validation, default=None)


def of(row: Row) -> Measured:
    """What an arm that was trained measured."""
    assert row.measured is not None
    return row.measured


def tier_of(name: str, access: Access, rows: Sequence[Row], target: str, attacker: str) -> Tier:
    """Put together what there is at a tier against a target by an attacker."""
    within = [
        row for row in rows if row.cell.attacker == attacker and row.arm.access.within(access) and row.state == "done"
    ]
    budgets = {row.arm.attack.budget for row in within if not row.arm.control}
    alone = [row for row in within if row.arm.teacher_free]
    free = [row for row in alone if row.arm.attack.budget in budgets]
    beyond = best_by_validation([row for row in alone if row.arm.attack.budget not in budgets])
    attacks = {row.arm.name: row for row in within if not row.arm.control and row.cell.target.label == target}
    on_original = [row for row in within if not row.arm.control and row.cell.target.original]
    control, undefended = best_by_validation(free), best_by_validation(on_original)
    gap, shares = None, dict[str, Share]()
    if control is not None and undefended is not None:
        arms = {name: of(row).test_SP for name, row in attacks.items()}
        gap, shares = recovered(arms, of(control).test_SP, of(undefended).test_SP)
    return Tier(name, access, attacks, control, undefended, gap, beyond, shares)


def worst_row(tier: Tier, target: str, attacker: str, words: Words) -> WorstRow:
    """The verdict on a target at a tier."""
    worst, share = tier.worst, None
    if worst is not None:
        share = tier.shares.get(worst.arm.name)
    word, why = _word(tier, worst, share, words)
    if tier.beyond is not None and tier.undefended is not None:
        free, taught = of(tier.beyond), of(tier.undefended)
        if free.score >= taught.score:
            why += f"; with more training {tier.beyond.arm.name} gets {100 * free.score:.1f} % without any teacher"
    return {
        "target": target,
        "attacker": attacker,
        "tier": tier.name,
        "access": tier.access.as_row(),
        "attack": None if worst is None else worst.arm.name,
        "seeds": 0 if worst is None else len(of(worst).seeds),
        "recovered": None if share is None else share.value,
        "interval": None if share is None else bounds_of(share.simultaneous),
        "control": None if tier.control is None else _reference(tier.control),
        "undefended": None if tier.undefended is None else _reference(tier.undefended),
        "verdict": word,
        "why": why,
    }


def _word(tier: Tier, worst: Row | None, share: Share | None, words: Words) -> tuple[Word, str]:
    if worst is None or tier.control is None or tier.undefended is None or tier.gap is None:
        return "can't tell", "no attack of this tier was trained, or no control"
    control, undefended = of(tier.control), of(tier.undefended)
    free, taught = tier.control.arm.name, tier.undefended.arm.name
    if not tier.gap.identifiable:
        low, high = (100 * bound for bound in tier.gap.interval)
        if tier.gap.interval[1] <= 0:
            return "irrelevant", (
                f"a student gets {100 * control.score:.1f} % without the teacher ({free}), and "
                f"{100 * undefended.score:.1f} % from the original ({taught}): there is nothing to protect"
            )
        return "can't tell", (
            f"what the original ({taught}) teaches beyond {free} is {100 * tier.gap.value:+.1f} points "
            f"[{low:+.1f}, {high:+.1f}], which may be nothing: R is not identifiable"
        )
    assert share is not None
    low, high = share.simultaneous
    said = f"{worst.arm.name} recovers {100 * share.value:.0f} % [{_percent(low)}, {_percent(high)}] of the gap"
    if np.isnan(low):
        return (
            "can't tell",
            f"{worst.arm.name} recovers {100 * share.value:.0f} %, and no bound holds for all attacks at once",
        )
    if high <= words.protects:
        return "protects", f"{said}: at most {100 * words.protects:.0f} %"
    if low >= words.broken:
        return "broken", f"{said}: at least {100 * words.broken:.0f} %"
    if low > words.protects:
        return "partly", f"{said}: more than {100 * words.protects:.0f} %"
    return "can't tell", f"{said}: it may be more than {100 * words.protects:.0f} %, or less"


def curves(rows: Sequence[Row], tiers: Mapping[str, Tier], target: str, attacker: str) -> list[CurveRow]:
    """R against queries for arms that differ in their number of queries alone: `NAME-N` at several N."""
    families: dict[str, list[Row]] = {}
    for row in rows:
        if row.cell.target.label == target and row.cell.attacker == attacker and row.state == "done":
            family, _, number = row.arm.name.rpartition("-")
            if number == f"{row.arm.access.queries:g}":
                families.setdefault(family, []).append(row)
    drawn: list[CurveRow] = []
    for family, members in families.items():
        tier = next(
            (tier for tier in tiers.values() if all(row.arm.access.within(tier.access) for row in members)), None
        )
        if tier is None or len(members) < 2:
            continue
        points: list[Point] = [
            {
                "queries": row.arm.access.queries,
                "attack": row.arm.name,
                "value": tier.shares[row.arm.name].value,
                "interval": bounds_of(tier.shares[row.arm.name].interval),
            }
            for row in sorted(members, key=lambda row: row.arm.access.queries)
            if row.arm.name in tier.shares
        ]
        if points:
            drawn.append({"target": target, "attacker": attacker, "kind": family, "points": points})
    return drawn


def planted_row(planted: Planted, rows: Sequence[Row], attacker: str) -> PlantedRow:
    """Did the attack find what was planted? R is of the reference attack on the original, and of the attacker's model
    as it is."""
    named = {(row.cell.target.label, row.arm.name): row for row in rows if row.cell.attacker == attacker}
    attack = named.get((f"planted-{planted.defence}", planted.attack))
    reference = named.get(("original", planted.reference))
    control = next((row for row in rows if row.arm.kind == "untrained" and row.cell.attacker == attacker), None)
    share = None
    arms = [None if row is None else row.measured for row in (attack, reference, control)]
    if arms[0] is not None and arms[1] is not None and arms[2] is not None:
        _, shares = recovered({planted.attack: arms[0].test_SP}, arms[2].test_SP, arms[1].test_SP)
        share = shares.get(planted.attack)
    passed = False
    if share is not None:
        low, high = share.interval
        passed = (low > 0 and high >= 1) if planted.recovers == "all" else (low <= 0 and high < 1)
    wanted = "reaches 1, excludes 0" if planted.recovers == "all" else "reaches 0, excludes 1"
    return {
        "planted": planted.name,
        "attack": planted.attack,
        "demand": f"{planted.attack} recovers {planted.recovers}: the interval {wanted}",
        "recovered": None if share is None else share.value,
        "interval": None if share is None else bounds_of(share.interval),
        "passed": passed,
    }


def utility(original_P: np.ndarray, target_P: np.ndarray) -> tuple[float, list[float | None]]:
    """The difference of a target's score to the original's, paired by problem, with its interval."""
    change = paired_difference(original_P, target_P)
    return change.mean, [change.low, change.high]


def _reference(row: Row) -> Reference:
    measured = of(row)
    return {
        "attack": row.arm.name,
        "target": row.cell.target.label,
        "score": measured.score,
        "interval": measured.interval.as_list(),
    }


def bounds_of(pair: tuple[float, float]) -> list[float | None]:
    """Return the bounds as `result.json` holds them: null for one that is undefined."""
    return [None if np.isnan(bound) else bound for bound in pair]


def _percent(bound: float) -> str:
    return "–" if np.isnan(bound) else f"{100 * bound:.0f}"
