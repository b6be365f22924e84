"""What the configs of several stages check of their values and data."""

from __future__ import annotations

from distillknob.errors import BadInputError


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
            "gradient_accumulation_steps, over num_generations where each problem has several samples): lower "
            "per_device_train_batch_size, or give more problems"
        )
