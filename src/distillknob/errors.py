"""What distillknob raises when it can say what is wrong and how to mend it.

Left out on purpose: a hierarchy by stage. A caller needs to know only whether the input was bad (exit code 2) or a
run failed after a good start (exit code 1).
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class DistillknobError(Exception):
    """Base class of every error that distillknob raises on purpose."""


class BadInputError(DistillknobError):
    """The input can't be used. The message holds the value and the remedy; nothing has been written."""


class RunFailedError(DistillknobError):
    """A run that started well can't go on. The message says what is kept, and how to go on."""


def check_at_least_one(config: object, *names: str) -> None:
    """Raise BadInputError for the first of the fields `names` that is below 1; None is a field left open."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise BadInputError(f"{name}={value}: must be at least 1")


def check_fills_a_step(rows: int, batch: int, what: str) -> None:
    """Raise BadInputError where `rows` are fewer than one optimizer step takes. TRL leaves out what doesn't fill a
    batch: it would train no step, and end as if all were well."""
    if rows < batch:
        raise BadInputError(
            f"{rows} {what}, but a step takes {batch} (per_device_train_batch_size × processes × "
            "gradient_accumulation_steps, for calibrate by num_generations): lower per_device_train_batch_size, or "
            "give more problems"
        )


def nearest(name: str, known: Iterable[str], *, otherwise: str = "") -> str:
    """`", did you mean 'x'?"` for the known name closest to `name`, or `otherwise` where none is close."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f", did you mean {matches[0]!r}?" if matches else otherwise


def first_line(error: Exception) -> str:
    """The first line of an error's message, for a message of our own."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
