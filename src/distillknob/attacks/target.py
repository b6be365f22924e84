"""The teachers under attack: weights, and perhaps a defence between them and whoever asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distillknob.defences.base import Wrapping
from distillknob.defences.choice import is_defence, models_read, parse
from distillknob.errors import BadInputError
from distillknob.models.labels import labelled, model_label, plain_name

ORIGINAL = "original"


@dataclass(frozen=True)
class Target:
    """A Target is one teacher under attack. `spec` is how the config names it, `model` the weights, `label` what rows
    and folders know it by."""

    label: str
    spec: str
    model: str
    defence: Wrapping | None = None

    @property
    def original(self) -> bool:
        return self.label == ORIGINAL

    @property
    def key_file(self) -> str | None:
        """The file of the defence's secret, where it has one."""
        return getattr(self.defence, "key_file", None) or None

    @property
    def models_read(self) -> list[str]:
        """The weights, and the models that the defence reads."""
        return [self.model, *(models_read(self.defence) if self.defence is not None else [])]


def targets_of(original: str, defended: Sequence[str]) -> list[Target]:
    """Return the original teacher and the defended ones. Each of these is a model (folder, hub id, zoo:NAME) or a
    defence (`NAME?option=value&…`, `model=` naming other weights than the original's), either with `LABEL=` before it.

    Raises BadInputError for an unknown defence, and for two targets of one label.
    """
    targets = [Target(ORIGINAL, original, original)]
    for named in defended:
        label, spec = labelled(named)
        if is_defence(spec):
            chosen = parse(spec)
            target = Target(label or plain_name(spec), spec, chosen.model or original, chosen.defence)
        else:
            target = Target(label or model_label(spec), spec, spec)
        if target.label in (one.label for one in targets):
            raise BadInputError(
                f"two targets are called {target.label!r}: write LABEL={spec} with another label for one of them"
            )
        targets.append(target)
    return targets
