"""This module knows what a run directory records of its config and of what it read, and how either differs from
another's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from distillknob.errors import BadInputError
from distillknob.runs.files import read_json

CONFIG, ENVIRONMENT = "config.yaml", "environment.json"
COMMIT = "commit"
UNKNOWN = "unknown: a server shows no weights"
# Runs that no command makes alone, with what repeats them.
_NO_COMMAND = {
    "cell": "A cell: the demo or sweep around it repeats it, and each stage inside by its own config.yaml",
    "compare-cell": "A cell: the comparison around it repeats it",
}
# What a run read: for each model, task, reward model or cache the parts of it (files, a commit) and their digests.
Reads = Mapping[str, Mapping[str, str]]


class _PlainDumper(yaml.SafeDumper):
    """Writes a list that occurs twice twice, rather than as an anchor and an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def config_text(stage: str, config: Mapping[str, Any]) -> str:
    """Return what `config.yaml` holds: a recipe that repeats the run, or says what does."""
    body = yaml.dump({stage: dict(config)}, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, width=120)
    command = f"Repeat this run: distillknob {stage} THIS_FILE --output ANOTHER_DIRECTORY"
    return f"# {_NO_COMMAND.get(stage, command)}\n{body}"


def read_config(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the stage and the config of the run directory `path`. Raises BadInputError where it holds none."""
    try:
        content = yaml.safe_load((path / CONFIG).read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path / CONFIG} is no YAML ({error}): choose another --output") from error
    if isinstance(content, dict) and len(content) == 1:
        stage, config = next(iter(content.items()))
        if isinstance(stage, str) and isinstance(config, dict):
            return stage, config
    raise BadInputError(f"{path} is no run directory: its {CONFIG} holds no stage's config. Choose another directory")


def config_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return `"eta was 0.5, now 1.0"` for each changed key; a key inside a mapping is written `outer.inner`."""
    old, new = dict(_flat(then)), dict(_flat(now))
    lines = []
    for key in dict.fromkeys([*old, *new]):
        if key not in new:
            lines.append(f"{key} was {old[key]!r}, now not set")
        elif key not in old:
            lines.append(f"{key} was not set, now {new[key]!r}")
        elif old[key] != new[key]:
            lines.append(f"{key} was {old[key]!r}, now {new[key]!r}")
    return lines


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def read_changes(then: Reads, now: Reads) -> list[str]:
    """Return `"model ./mine: model.safetensors has changed"` for each model, task, … that isn't what it was.

    What only one side records is no change: which models and tasks a run reads stands in its config.
    """
    lines = []
    for name in then:
        old, new = then[name], now.get(name, then[name])
        parts = [
            f"{part} is gone"
            if part not in new
            else f"{part} is new"
            if part not in old
            else f"{part} was {old[part]}, now {new[part]}"
            if part == COMMIT
            else f"{part} has changed"
            for part in dict.fromkeys([*old, *new])
            if old.get(part) != new.get(part)
        ]
        if parts:
            lines.append(f"{name}: {', '.join(parts)}")
    return lines


def check_same(
    path: Path, stage: str, config: Mapping[str, Any], digests: Mapping[str, str], read: Reads | None
) -> None:
    """Raise BadInputError unless the run in `path` is one of this stage, of this config, and of inputs (`digests` of
    their manifests) and files, data and models (`read`) that haven't changed since."""
    other, then_config = read_config(path)
    if other != stage:
        raise BadInputError(f"{path} holds a run of {other}, not of {stage}: choose another --output")
    check_config(f"{path} holds a run of {stage}", then_config, config)
    if not (path / ENVIRONMENT).exists():  # a run killed within its first instant has none
        return
    environment = read_json(path / ENVIRONMENT)
    then = environment["inputs"]
    if sorted(then.values()) != sorted(digests.values()):  # by content: the same inputs may have moved
        changed = sorted(item for item in {*then, *digests} if then.get(item) != digests.get(item))
        raise BadInputError(
            f"what {path} was made from has changed since ({', '.join(changed)}): choose another --output"
        )
    check_reads(str(path), environment.get("read", {}), read or {})


def check_config(held: str, then: Mapping[str, Any], now: Mapping[str, Any], *, flag: str = "--output") -> None:
    """Raise BadInputError with the changed keys where the config of what is `held` isn't the one of now."""
    if changes := config_changes(then, now):
        raise BadInputError(
            f"{held} with another config ({'; '.join(changes)}): choose another {flag}, or go back to that run's config"
        )


def check_reads(what: str, then: Reads, now: Reads, *, flag: str = "--output") -> None:
    """Raise BadInputError with the changed parts where models, tasks, … that `what` was made from have changed."""
    if changed := read_changes(then, now):
        raise BadInputError(
            f"what {what} was made from has changed since ({'; '.join(changed)}), so its figures aren't of what is "
            f"there now: choose another {flag} to measure anew, or put back what it read"
        )
