"""The gate: a policy, the run of an attack, and one verdict, from which text, JSON and exit status are made.

    0  pass                  every bound keeps to the policy
    1  breach                a bound breaks it, whatever else is missing
    2  not enough evidence   a bound doesn't decide, or something that the policy asks for isn't there
    3  could not run         no run, a damaged one, or one of other weights or data than lie there now; bad input

A breach needs figures that can be trusted: where planted tests failed, or the run is of another suite or of weights
that nobody can see, there is no evidence for either. Left out on purpose: a grade or a score (a gate is open or not).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from distillknob.config.shipped import find_policy
from distillknob.errors import BadInputError
from distillknob.gates import checks
from distillknob.gates.bound import bound
from distillknob.gates.evidence import Arm, Evidence, read_evidence, read_external, read_result
from distillknob.gates.lacking import lacking
from distillknob.gates.policy import Policy, read_policy
from distillknob.gates.words import means
from distillknob.results.attacks import SuiteRow
from distillknob.results.gates import GateCheck, GateFigure, GateResult, GateVerdict
from distillknob.results.schema import SCHEMA
from distillknob.runs.files import read_json, sha256
from distillknob.runs.run import CONFIG, ENVIRONMENT, MANIFEST, RESULT, Run, load_run, verify_manifest

STATUS: dict[GateVerdict, int] = {"pass": 0, "breach": 1, "not enough evidence": 2, "could not run": 3}
COULD_NOT_RUN = STATUS["could not run"]


def gate(
    policy: str | Path, run_dir: str | Path, target: str | None = None, *, now: datetime | None = None
) -> GateResult:
    """Judge by a policy whether a teacher that was attacked may be released, and return the verdict with its reasons.

    `policy` is a YAML file or a shipped one's name, `run_dir` a run of `attack`, `target` one of its targets (default:
    the only one that isn't the original). `now` is the time by which the run's age is counted. Nothing is raised for
    bad input: the verdict is then `could not run`, and `means` holds the message.
    """
    now = now or datetime.now(UTC)
    blank = GateResult(
        schema=SCHEMA,
        verdict="could not run",
        status=COULD_NOT_RUN,
        target=target,
        means="",
        checks=[],
        upper=None,
        figures=[],
        notes=[],
        policy=str(policy),
        policy_sha256=None,
        run=str(run_dir),
        manifest_sha256=None,
        suite=None,
        tier=None,
        bound_to={},
        measured=None,
        gated=now.isoformat(timespec="seconds"),
    )
    try:
        path = find_policy(str(policy))
        rules = read_policy(path)
        access = {**dataclasses.asdict(rules.tier), "text": str(rules.tier)}
        blank |= cast(GateResult, {"policy_sha256": sha256(path), "tier": access})
        return _judged(blank, rules, load_run(run_dir), target, now)
    except BadInputError as error:
        return {**blank, "means": f"The gate could not run: {error}"}
    except OSError as error:  # a file that can't be read
        return {**blank, "means": f"The gate could not run: can't read {error.filename}: {error.strerror}"}


def _judged(blank: GateResult, policy: Policy, run: Run, target: str | None, now: datetime) -> GateResult:
    """The verdict on a run. Raises BadInputError where it can't be used."""
    if run.stage != "attack":
        raise BadInputError(f"{run.path} holds a run of {run.stage}: give a run of attack")
    if not run.complete:
        unfinished = GateCheck(
            check="result", outcome=checks.OPEN, reason=f"{run.path} is not finished: resume the attack"
        )
        return _with_verdict(blank, policy, [unfinished], [], None)
    if changed := [*verify_manifest(run.path), *_unproven(run)]:
        raise BadInputError(
            f"{run.path} isn't as it was written ({'; '.join(changed)}): restore it, or attack anew into another folder"
        )
    result = read_result(run)
    evidence = read_evidence(result, target, policy.tier, run.path / RESULT)
    started = _started(run)
    bound_to, unseen = bound(run, result, evidence)
    _check_suite(policy, run, result["suite"])
    external, notes = _external(policy, evidence)
    trusted = checks.trust(policy, result, evidence)
    asked = [
        *checks.recovered(policy, evidence, external),
        checks.utility(policy, evidence),
        *checks.mounted(policy, evidence, lacking(policy, run, evidence)),
        checks.seeds(policy, evidence),
        checks.fresh(policy, started, now),
    ]
    notes += [f"flag: {line}" for line in evidence.flags] + [f"not seen from here: {name}" for name in unseen]
    judged: dict[str, Any] = {
        "target": evidence.target["target"],
        "upper": max((pair[1] for _, pair in checks.bounds(policy, evidence, external)), default=None),
        "figures": _figures([*evidence.at(policy.tier), *external]),
        "notes": notes,
        "manifest_sha256": sha256(run.path / MANIFEST),
        "suite": result["suite"],
        "bound_to": bound_to,
        "measured": started.isoformat(timespec="seconds"),
    }
    return _with_verdict(cast(GateResult, {**blank, **judged}), policy, trusted, asked, evidence)


def _unproven(run: Run) -> list[str]:
    """The files that the gate reads and the manifest doesn't hold."""
    files = read_json(run.path / MANIFEST)["files"]
    return [f"{name}: not in its {MANIFEST}" for name in (CONFIG, ENVIRONMENT, RESULT) if name not in files]


def _with_verdict(
    blank: GateResult, policy: Policy, trusted: list[GateCheck], asked: list[GateCheck], evidence: Evidence | None
) -> GateResult:
    rows = [*trusted, *asked]
    verdict: GateVerdict = "pass"
    if any(row["outcome"] != checks.PASS for row in trusted):
        verdict = "not enough evidence"
    elif any(row["outcome"] == checks.BREACH for row in asked):
        verdict = "breach"
    elif any(row["outcome"] != checks.PASS for row in asked):
        verdict = "not enough evidence"
    result: GateResult = {**blank, "verdict": verdict, "status": STATUS[verdict], "checks": rows}
    return {**result, "means": means(result, policy, evidence)}


def _started(run: Run) -> datetime:
    """When the run began: its oldest figures are of that time."""
    file = run.path / ENVIRONMENT
    try:
        started = datetime.fromisoformat(read_json(file)["started"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadInputError(f"{file} doesn't say when the run began ({error}): attack anew") from error
    return started if started.tzinfo else started.replace(tzinfo=UTC)


def _check_suite(policy: Policy, run: Run, suite: SuiteRow) -> None:
    """Raise BadInputError where the run's suite has the name of the policy's and is another one: of a suite that ships
    its file decides, of any other the digest that the policy holds it to."""
    if suite["name"] != policy.suite:
        return  # which is a lack of evidence
    shipped = files("distillknob.attacks") / "suites"
    own = {entry.name: entry for entry in shipped.iterdir()}.get(f"{policy.suite}.yaml")
    if own is not None and suite["sha256"] != (digest := hashlib.sha256(own.read_bytes()).hexdigest()):
        raise BadInputError(
            f"{run.path} was made by another {policy.suite} ({suite['sha256'][:12]}…) than the one that ships "
            f"({digest[:12]}…): attack anew with --suite {policy.suite}, or give your own suite a name of its own"
        )
    if policy.suite_sha256 not in (None, suite["sha256"]):
        raise BadInputError(
            f"{run.path} was made by another {policy.suite} ({suite['sha256'][:12]}…) than the policy's "
            f"({str(policy.suite_sha256)[:12]}…): attack anew, or set suite_sha256 to what you mean"
        )


def _external(policy: Policy, evidence: Evidence) -> tuple[list[Arm], list[str]]:
    """Attacks by others on these weights at the policy's tier, and what to say of the rest."""
    arms: list[Arm] = []
    notes = []
    for name in policy.external:
        own, others = read_external(Path(name), evidence.target["weights"])
        inside = [arm for arm in own if arm.access.within(policy.tier)]
        arms += inside
        told = f"{len(inside)} held against the limit"
        told += f", {len(own) - len(inside)} beyond the tier" if len(own) > len(inside) else ""
        notes.append(f"external results {name}: {told}" + (f", {others} on other weights" if others else ""))
    return arms, notes


def _figures(arms: Iterable[Arm]) -> list[GateFigure]:
    """R of each attack, the highest first."""

    def rank(arm: Arm) -> tuple[bool, float]:
        return (arm.interval is None, -(arm.interval or (0.0, 0.0))[1])

    return [
        GateFigure(
            attack=arm.attack,
            attacker=arm.attacker,
            access=str(arm.access),
            seeds=arm.seeds,
            recovered=arm.recovered,
            interval=arm.interval,
            source=arm.source,
        )
        for arm in sorted(arms, key=rank)
        if arm.state == "done"
    ]
