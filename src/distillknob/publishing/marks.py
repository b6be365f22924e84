"""The marks in a model card between which the gate writes what attacks showed.

A card of a teacher has the section from the start, and says in it that nobody attacked the model. So the gate's verdict
stands where a reader looks for it.
"""

from __future__ import annotations

BEGIN, END = "<!-- distillknob gate: begin -->", "<!-- distillknob gate: end -->"
HEADING = "## Attacked by extractors"


def not_attacked() -> str:
    """Return the section of a teacher that was never attacked."""
    lines = [
        BEGIN,
        HEADING,
        "",
        "No attack on this model has been run. `distillknob attack` runs them, and `distillknob gate --card` writes",
        "their verdict here.",
        END,
    ]
    return "\n".join(lines)
