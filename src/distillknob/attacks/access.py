"""The threat model: what an attacker may do with the teacher, and what it has beside it."""

from __future__ import annotations

from dataclasses import dataclass

from distillknob.errors import BadInputError, nearest
from distillknob.results.attacks import AccessRow

# From the least to the most. Each holds what stands before it; `none` doesn't touch the teacher.
INTERFACES = {
    "none": "no teacher",
    "answers": "final answers only",
    "text": "text",
    "prefill": "text whose beginning the attacker writes",
    "top_k": "text with top-k log-probabilities",
    "logits": "full logits on the teacher's own text",
    "on_policy": "full logits on any text",
    "weights": "open weights",
}


@dataclass(frozen=True)
class Access:
    """An Access is one point of the threat model.

    `queries` are answers of the teacher, in multiples of the task's problems; `clean` is the share of these problems of
    which the attacker has a public worked solution; `labels` says that it knows the final answers; `interface` is one
    of INTERFACES.
    """

    interface: str
    queries: float = 0.0
    clean: float = 0.0
    labels: bool = False

    def __post_init__(self) -> None:
        if self.interface not in INTERFACES:
            guess = nearest(self.interface, INTERFACES, otherwise=":")
            raise BadInputError(f"interface={self.interface!r}{guess} known are {', '.join(INTERFACES)}")
        if self.queries < 0 or not 0 <= self.clean <= 1:
            raise BadInputError(f"queries={self.queries}, clean={self.clean}: queries from 0 on, clean between 0 and 1")

    def within(self, tier: Access) -> bool:
        """Can an attacker of this tier mount an attack that needs this access?"""
        order = list(INTERFACES)
        return (
            order.index(self.interface) <= order.index(tier.interface)
            and self.queries <= tier.queries
            and self.clean <= tier.clean
            and (tier.labels or not self.labels)
        )

    def as_row(self) -> AccessRow:
        """The numbers as `result.json` holds them."""
        return {
            "interface": self.interface,
            "queries": self.queries,
            "clean": self.clean,
            "labels": self.labels,
            "text": str(self),
        }

    def __str__(self) -> str:
        """The three numbers as they stand beside each figure, such as `text · 8× queries · labels`."""
        clean = (
            [f"{100 * self.clean:.0f} % solutions"] if self.clean else ["labels"] if self.labels else ["no clean data"]
        )
        return " · ".join([INTERFACES[self.interface], f"{self.queries:g}× queries", *clean])
