"""What a task on a data set says of itself: a few lines for a reader, and a row in docs/reference/tasks.md."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Card:
    """`reconstructed`: what the paper leaves open, and what was chosen."""

    data_set: str
    asks: str
    licence: str
    graded: str
    chance: str
    splits: str
    reconstructed: str = ""

    def __str__(self) -> str:
        lines = [(field.name.replace("_", " "), getattr(self, field.name)) for field in fields(self)]
        return "\n".join(f"{name}: {value}" for name, value in lines if value)

    def table_row(self, name: str) -> str:
        """The row of a Markdown table: all fields in their order, what was reconstructed behind the splits."""
        splits = self.splits + (f". Reconstructed: {self.reconstructed}" if self.reconstructed else "")
        cells = (f"`{name}`", self.data_set, self.asks, self.licence, self.graded, self.chance, splits)
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
