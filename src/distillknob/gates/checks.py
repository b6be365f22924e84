"""What a policy asks, one function a question. Each answers with rows that say pass, breach or not enough evidence.

Bounds are compared, never point estimates: a limit is kept where the far end of the interval keeps it, and breached
where the near end breaks it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from distillknob.attacks.access import INTERFACES
from distillknob.gates.evidence import SUITE, Arm, Evidence, Pair
from distillknob.gates.policy import Policy
from distillknob.results.attacks import AttackResult
from distillknob.results.gates import GateCheck, Outcome
from distillknob.runs.records import UNKNOWN

PASS: Outcome = "pass"
BREACH: Outcome = "breach"
OPEN: Outcome = "not enough evidence"
_CLOCKS = timedelta(days=1)  # by which two machines' clocks may differ


def trust(policy: Policy, result: AttackResult, evidence: Evidence) -> list[GateCheck]:
    """Can the run's figures be believed at all, and are they of the policy's suite and of weights that are known?"""
    name = result["suite"]["name"]
    rows = [
        _row(
            "suite",
            name == policy.suite,
            f"the run is of {name}",
            f"the run is of {name}, and the policy asks for {policy.suite}: attack with that suite",
        )
    ]
    refused = result["refused"]
    rows.append(_row("result", refused is None, "the run gives its verdicts", f"the run gives no verdicts: {refused}"))
    failed = [row["planted"] for row in result["planted"] if row["passed"] is not True]
    told = f"failed: {', '.join(failed)}: nobody knows whether the attacks have teeth"
    rows.append(
        _row(
            "planted tests",
            bool(result["planted"]) and not failed,
            f"{len(result['planted'])} passed",
            told if failed else "the run has none: attack without --no-planted",
        )
    )
    return [*rows, _known(result, evidence)]


def _known(result: AttackResult, evidence: Evidence) -> GateCheck:
    """Can somebody see the weights behind the target, those of the original, of which R is made, and those that the
    defence reads?"""
    read, own = result["read"], f"model {evidence.target['model']}"
    unseen = [name for name in evidence.behind if not read.get(name) or UNKNOWN in read[name].values()]
    if UNKNOWN in evidence.target["weights"].values() and own not in unseen:
        unseen.append(own)
    told = " and ".join(name.removeprefix("model ") for name in unseen)
    return _row(
        "weights",
        not unseen,
        f"what was read of {evidence.target['model']} is as it was",
        f"the weights of {told} are not known (a server shows none): attack with the folder that it serves",
    )


def fresh(policy: Policy, started: datetime, now: datetime) -> GateCheck:
    """Is the run young enough?"""
    age = now - started
    days = f"{age.total_seconds() / 86400:.1f} days old"
    if age < -_CLOCKS:
        return GateCheck(
            check="age", outcome=OPEN, reason=f"the run began in the future, {started:%Y-%m-%d}: see the clock"
        )
    kept = age <= timedelta(days=policy.age_days)
    return _row("age", kept, days, f"{days}, and the policy takes {policy.age_days:g}: attack anew")


def mounted(policy: Policy, evidence: Evidence, lacking: Mapping[str, GateCheck]) -> list[GateCheck]:
    """Was everything attacked that the policy asks for, by enough attackers, with all that the tier allows? `lacking`
    has the rows of the attacks that the run doesn't have."""
    inside = evidence.at(policy.tier)
    done = [arm for arm in inside if arm.state == "done"]
    rows = [lacking[name] if name in lacking else _required(policy, evidence, name) for name in policy.attacks]
    attackers = len({arm.attacker for arm in done})
    rows.append(
        _row(
            "attackers",
            attackers >= policy.attackers,
            _counted(attackers),
            f"{_counted(attackers)}, and the policy asks for {policy.attackers}: attack with more (attackers)",
        )
    )
    broken = [arm for arm in inside if arm.state == "failed" and arm.attack not in policy.attacks]
    if broken:
        told = "; ".join(f"{arm.attack} by {arm.attacker} ({arm.reason})" for arm in broken)
        rows.append(GateCheck(check="failed attacks", outcome=OPEN, reason=f"{told}: resume the run"))
    return [*rows, _spent(policy, done)]


def _required(policy: Policy, evidence: Evidence, name: str) -> GateCheck:
    """Was this attack mounted at the tier, and done by every attacker to whom it applies?"""
    check = f"attack {name}"
    own = [arm for arm in evidence.arms if arm.attack == name]
    inside = [arm for arm in own if arm.access.within(policy.tier)]
    done = any(arm.state == "done" for arm in inside)
    fine = ("done", "not applicable") if done else ("done",)
    lacking = [arm for arm in inside if arm.state not in fine]
    if done and not lacking:
        return GateCheck(check=check, outcome=PASS, reason="done")
    if lacking:
        told = "; ".join(f"{arm.state} by {arm.attacker}: {arm.reason or 'no reason was recorded'}" for arm in lacking)
    else:
        told = f"it needs more than the tier allows ({own[0].access}): raise the tier, or don't ask for it"
    return GateCheck(check=check, outcome=OPEN, reason=told)


def _spent(policy: Policy, done: Sequence[Arm]) -> GateCheck:
    """Did the attacks use what the tier allows? Else the tier's name promises more than was tried."""
    tier, order = policy.tier, list(INTERFACES)
    largest = max((arm.access.queries for arm in done), default=0.0)
    widest = max((order.index(arm.access.interface) for arm in done), default=0)
    lacks = []
    if largest < tier.queries:
        lacks.append(f"no attack asked more than {largest:g}× queries of {tier.queries:g}×")
    if widest < order.index(tier.interface):
        lacks.append(f"no attack used {INTERFACES[tier.interface]}")
    if max((arm.access.clean for arm in done), default=0.0) < tier.clean:
        lacks.append(f"no attack used {100 * tier.clean:.0f} % public solutions")
    if tier.labels and not any(arm.access.labels for arm in done):
        lacks.append("no attack used the final answers")
    told = f"{'; '.join(lacks)}: lower the policy's tier, or attack with a suite that goes so far"
    return _row("tier", not lacks, f"the attacks went as far as {tier}", told)


def bounds(policy: Policy, evidence: Evidence, external: Sequence[Arm]) -> list[tuple[str, Pair]]:
    """The intervals of R that are held against the limit: of each attack at the tier, also of those by others, and of
    the result's own verdicts."""
    done = [arm for arm in (*evidence.at(policy.tier), *external) if arm.state == "done"]
    return [
        *((_by(arm), arm.interval) for arm in done if arm.interval is not None),
        *((f"{row.attack} by {row.attacker}", row.interval) for row in evidence.judged if row.interval is not None),
    ]


def recovered(policy: Policy, evidence: Evidence, external: Sequence[Arm]) -> list[GateCheck]:
    """Do the bounds of R keep to the limit, for each attack at the tier?"""
    limit, allowed = policy.largest_recovered, f"the policy allows {percent(policy.largest_recovered)} %"
    if evidence.tier is None:
        rows = [_no_tier(policy, evidence)]
    else:
        rows = [*_undefined(policy, evidence, external), *_in_doubt(policy, evidence)]
    figures = bounds(policy, evidence, external)
    if not figures:
        return [*rows, GateCheck(check="recovered", outcome=OPEN, reason="no attack at the tier has a figure")]
    beyond = [(name, pair) for name, pair in figures if pair[1] > limit]
    for name, pair in dict(beyond).items():
        told = f"{name}: {_range(pair)} % of the gap; {allowed}"
        if pair[0] > limit:
            rows.append(GateCheck(check="recovered", outcome=BREACH, reason=told))
        else:
            rows.append(GateCheck(check="recovered", outcome=OPEN, reason=f"{told}. More problems or seeds decide"))
    if not beyond:
        name, pair = max(figures, key=lambda one: one[1][1])
        told = f"at most {percent(pair[1])} % of the gap ({name}); {allowed}"
        rows.append(GateCheck(check="recovered", outcome=PASS, reason=told))
    return rows


def _no_tier(policy: Policy, evidence: Evidence) -> GateCheck:
    """R is measured tier by tier; by another tier's gap it would be another share."""
    tiers = "; ".join(f"{name} ({access})" for name, access in evidence.tiers.items())
    told = f"its tiers are {tiers}: set the policy's tier to one of them, or attack with a suite that has it"
    return GateCheck(
        check="R at the tier",
        outcome=OPEN,
        reason=f"the run has no tier of {policy.tier}; {told if tiers else 'it gives verdicts at none'}",
    )


def _undefined(policy: Policy, evidence: Evidence, external: Sequence[Arm]) -> list[GateCheck]:
    """The attacks at the tier of which nobody can say what they recover."""
    arms = [arm for arm in (*evidence.at(policy.tier), *external) if arm.state == "done" and arm.interval is None]
    why = {True: "the gap is not identifiable, or rests on too little", False: "it has no interval"}
    return [
        GateCheck(check=f"R of {_by(arm)}", outcome=OPEN, reason=f"undefined: {why[arm.source == SUITE]}")
        for arm in arms
    ]


def _in_doubt(policy: Policy, evidence: Evidence) -> list[GateCheck]:
    """The attackers by whom the result itself gives no verdict on the defence."""
    judged = evidence.judged
    attackers = dict.fromkeys(arm.attacker for arm in evidence.at(policy.tier))
    none = [one for one in attackers if not any(row.attacker == one for row in judged)]
    rows = [GateCheck(check=f"verdict by {one}", outcome=OPEN, reason="the run has none at this tier") for one in none]
    return rows + [
        GateCheck(check=f"verdict by {row.attacker}", outcome=OPEN, reason=f"{row.word}: {row.why}")
        for row in judged
        if row.word in ("irrelevant", "can't tell")
    ]


def seeds(policy: Policy, evidence: Evidence) -> GateCheck:
    """Do the worst attack of all, and the worst by validation problems, rest on enough seeds? Attacks that recover less
    needn't, by whomever they are mounted."""
    done = [arm for arm in evidence.at(policy.tier) if arm.state == "done" and arm.recovered is not None]
    judged = [row for row in evidence.judged if row.recovered is not None]
    worst: list[tuple[str, int]] = []
    if done:
        arm = max(done, key=lambda one: one.recovered or 0.0)
        worst.append((_by(arm), arm.seeds))
    if judged:
        row = max(judged, key=lambda one: one.recovered or 0.0)
        worst.append((f"{row.attack} by {row.attacker}", row.seeds))
    told = ", ".join(f"{name}: {count}" for name, count in dict.fromkeys(worst))
    return _row(
        "seeds",
        bool(worst) and all(count >= policy.seeds for _, count in worst),
        told,
        f"{told or 'no attack has a figure'}; the policy asks for {policy.seeds} of the worst attack: attack with more",
    )


def utility(policy: Policy, evidence: Evidence) -> GateCheck:
    """Is the teacher worth what the policy asks, by the interval of its difference to the original?"""
    limit = f"the policy allows {percent(policy.smallest_utility)}"
    if evidence.utility is None:
        return GateCheck(check="utility", outcome=OPEN, reason="the difference to the original has no interval")
    low, high = evidence.utility
    told = f"{_range((low, high))} points to the original; {limit}"
    if low >= policy.smallest_utility:
        return GateCheck(check="utility", outcome=PASS, reason=told)
    if high < policy.smallest_utility:
        return GateCheck(check="utility", outcome=BREACH, reason=told)
    return GateCheck(check="utility", outcome=OPEN, reason=f"{told}. More problems decide")


def percent(value: float) -> str:
    """A fraction in percent, with two digits: at one, a bound that breaks a limit could look as if it kept it."""
    return f"{100 * value:.2f}"


def _counted(attackers: int) -> str:
    return f"{attackers} model{'' if attackers == 1 else 's'} mounted attacks at the tier"


def _range(pair: Pair) -> str:
    return f"[{percent(pair[0])}, {percent(pair[1])}]"


def _by(arm: Arm) -> str:
    return f"{arm.attack} by {arm.attacker}" + ("" if arm.source == SUITE else f" ({arm.source})")


def _row(check: str, kept: bool, reason: str, otherwise: str) -> GateCheck:
    return GateCheck(check=check, outcome=PASS if kept else OPEN, reason=reason if kept else otherwise)
