"""What a verdict is bound to: the files and data that have to be as they were when the teacher was attacked."""

from __future__ import annotations

from types import SimpleNamespace

from distillknob.errors import BadInputError
from distillknob.gates.evidence import Evidence, behind
from distillknob.inputs.identity import read_again, read_by
from distillknob.models.names import ZOO
from distillknob.results.attacks import AttackResult
from distillknob.runs.records import UNKNOWN, read_changes
from distillknob.runs.run import Run

_SHIPPED = {f"model zoo:{name}" for name in ZOO}  # what a defence reads by default ships with the package


def bound(run: Run, result: AttackResult, evidence: Evidence) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return what the verdict is bound to: the target's files and those of the original, what the target's defence
    reads, adapters' base models, and the tasks' data, each with its digests; and what of these can't be seen from here.
    Other targets, their keys and the attackers' models may have gone: the figures are what they were.

    Raises BadInputError where something isn't what was attacked.
    """
    read = {name: dict(parts) for name, parts in result["read"].items()}
    anew = f"so the figures of {run.path} aren't of what is there now: attack anew into another --output"
    if changed := read_changes(run.read, read):
        raise BadInputError(f"what was attacked changed during the attack ({'; '.join(changed)}), {anew}")
    try:
        own = {*evidence.behind, *_bases(read, evidence)}
        others = _of_others(result) - own
        if evidence.target["defence"] is not None:
            others -= _SHIPPED
        stands = {name: parts for name, parts in read.items() if parts and name not in others}
        now = read_again(stands)
    except BadInputError as error:
        raise BadInputError(f"what was attacked can't be read again ({error}), {anew}, or put it back") from error
    if changed := read_changes(stands, now):
        raise BadInputError(f"what was attacked has changed since ({'; '.join(changed)}), {anew}, or put it back")
    return stands, [name for name in stands if name not in now]


def _of_others(result: AttackResult) -> set[str]:
    """The attackers' models, and what stands behind the other targets."""
    attackers = {f"model {name}" for name in result["attackers"]}
    return attackers.union(*(behind(result, row) for row in result["targets"] if not row["original"]))


def _bases(read: dict[str, dict[str, str]], evidence: Evidence) -> set[str]:
    """The base models of the adapters among what stands behind the target."""
    seen = [name for name in evidence.behind if name.startswith("model ") and name in read]
    local = [name.removeprefix("model ") for name in seen if UNKNOWN not in read[name].values()]
    return set(read_by(SimpleNamespace(models_read=local, tasks=[])))
