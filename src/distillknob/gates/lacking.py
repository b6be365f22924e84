"""What to say of an attack that a policy asks for and a run doesn't have: is there such an attack, and how to mount it.

A suite is read as a file of names. Its attacks' own code, which loads torch, isn't needed for that.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from distillknob.config.recipe import read_recipe
from distillknob.errors import BadInputError, nearest
from distillknob.gates.evidence import Evidence
from distillknob.gates.policy import Policy
from distillknob.results.gates import GateCheck, Outcome
from distillknob.runs.run import CONFIG, Run

OPEN: Outcome = "not enough evidence"


def lacking(policy: Policy, run: Run, evidence: Evidence) -> dict[str, GateCheck]:
    """Return a row for each attack that the policy asks for and the run doesn't have: why, and what to do about it."""
    mounted = list(dict.fromkeys(arm.attack for arm in evidence.arms))
    missing = [name for name in policy.attacks if name not in mounted]
    suite, values = _suite(policy, run)
    attacks = list(values.get("attacks") or mounted)
    further = [name for name in missing if name in attacks]
    how = _command(run, suite, [name for name in attacks if name in {*mounted, *further}])
    rows: dict[str, GateCheck] = {}
    for name in missing:
        rows[name] = GateCheck(check=f"attack {name}", outcome=OPEN, reason=f"it wasn't run in {run.path}")
        if name not in further:
            rows[name]["reason"] = _unknown(name, policy.suite, attacks, values)
        elif name == further[0]:  # one command mounts all of them
            rows[name]["command"] = how
    return rows


def _unknown(name: str, suite: str, attacks: Iterable[str], values: Mapping[str, Any]) -> str:
    if name in (values.get("controls") or {}):
        return f"{suite} has it as a control, by which attacks are measured, and not as an attack: don't ask for it"
    if name in (values.get("planted_attacks") or {}):
        return f"{suite} mounts it on planted defences alone: don't ask for it"
    return f"{suite} has no such attack{nearest(name, attacks, otherwise='.')} It has {', '.join(attacks) or 'none'}"


def _suite(policy: Policy, run: Run) -> tuple[str | None, Mapping[str, Any]]:
    """The suite that the policy asks for, as `--suite` names it, and what its file holds; None and nothing where it
    neither ships nor is the file that the run was made by."""
    shipped = Path(str(files("distillknob.attacks") / "suites" / f"{policy.suite}.yaml"))
    own = str(run.config.get("suite"))
    for name, path in ((policy.suite, shipped), (own, Path(own))):
        try:
            values = read_recipe(path) if path.is_file() else {}
        except BadInputError:  # it has changed since, and can't be read any more
            continue
        if values.get("name") == policy.suite:
            return name, values
    return None, {}


def _command(run: Run, suite: str | None, attacks: Iterable[str]) -> str:
    """The command that attacks anew, with all that the policy asks for: a finished run takes no further attack."""
    words = ["distillknob", "attack", "--config", str(run.path / CONFIG)]
    words += [] if suite is None or suite == run.config.get("suite") else ["--suite", suite]
    words += ["--planted"] if run.config.get("planted") is False else []  # without which no gate opens
    words += ["--attacks", *attacks, "--output", str(run.path.with_name(f"{run.path.name or 'run'}-again"))]
    return shlex.join(words)
