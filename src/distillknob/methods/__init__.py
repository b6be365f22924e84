"""How a student may learn: a loss × where the traces come from × which tokens count × what the teacher sees × …

A method is one point of that grid and one row of `METHODS`; SFT is its hard-label corner. `DistillConfig` can replace
each part by itself. A part's name here leads to its code in `distillation`: losses in `losses`, sources of traces in
`traces`, the choice among them in `selection`, choices of tokens in `token_choice`, their weights in `token_weights`,
contexts in `teacher_context`, whose weights teach in `teachers`, soft targets in `soft_targets`, weights of traces in
`queries`, edits of own samples in `edits`. The rows stand in the files of this room, by family.

Left out on purpose: whatever needs torch. Reports and `--help` read these rows, too.
"""

from __future__ import annotations

from distillknob.methods import (
    divergences,
    hidden_states,
    rewarded,
    selective,
    self_taught,
    sequences,
    several_teachers,
    soft_targets,
    tokenizers,
)
from distillknob.methods.base import Method

__all__ = ["FAMILIES", "METHODS", "Method"]

# By family, in the order in which a reader meets them.
FAMILIES: dict[str, dict[str, Method]] = {
    "Sequences": sequences.ROWS,
    "Divergences": divergences.ROWS,
    "Chosen and weighted tokens": selective.ROWS,
    "Soft targets": soft_targets.ROWS,
    "Between two tokenizers": tokenizers.ROWS,
    "The student as its own teacher": self_taught.ROWS,
    "With a task reward": rewarded.ROWS,
    "Several teachers": several_teachers.ROWS,
    "Hidden states": hidden_states.ROWS,
}
METHODS: dict[str, Method] = {name: method for rows in FAMILIES.values() for name, method in rows.items()}
