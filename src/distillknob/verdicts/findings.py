"""The order in which the findings of a diagnosis are told, and the group that each belongs to.

The order is that of what helps the reader most, and the badge (`severity`) alone doesn't say that. Some traps reach
"high" on nearly any two models. What they say is true and tells nothing of this pair, and whoever follows their remedy
first loses time. So a finding belongs to the first of these groups that fits, and the groups are told in this order:

1. **premise**: the teacher is mostly wrong, or no better than the student. Without that nothing else helps.
2. **pair**: medium or high, and rarer than that: on fewer than half of twenty pairs in which nothing was planted.
3. **knob**: the teacher can be turned far towards this student (`knob_range` at an η below 0), or another reward would
   do more. It is no trap; its remedy is what a capacity gap would be mended by, and it is there also where no gap could
   be measured.
4. **background**: medium or high, as on half of those pairs or more.
5. **slight**: low or none. 6. **not asked**.

Within a group the graver go first, and of two that are equally grave the one that fewer of the twenty pairs reach.

The twenty pairs were measured once: docs/research/benchmarks.md, "How often the lens alarms without a cause". They are
models of 0.2 million parameters; a trap that is common there may be rarer in large ones. Left out on purpose: how much
each remedy gains. That is being measured (rule 9 of the comparison in docs/research/lab-notebook.md), and nothing is
claimed before; and no threshold was moved for this, since the grades are those of docs/explanation/traps.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Group = Literal["premise", "pair", "knob", "background", "slight", "not asked"]
GROUPS: tuple[Group, ...] = ("premise", "pair", "knob", "background", "slight", "not asked")
ADVISED: tuple[Group, ...] = ("premise", "pair", "knob", "background")  # those whose remedy is worth a look
SEVERITIES = ("high", "medium", "low", "none")
GRAVE = ("high", "medium")
PREMISES = ("teacher_accuracy", "teacher_lead")
KNOB = "knob_range"
OF_REWARD = ", reward="  # behind an η: a remedy that names another reward
# The share of the pairs without a cause on which a trap is high, and on which it is medium or high.
UNCAUSED: Mapping[str, tuple[float, float]] = {
    "tail_noise": (0 / 20, 0 / 20),
    "signal_sparsity": (18 / 20, 20 / 20),
    "off_policy_instability": (4 / 20, 16 / 20),
    "sequence_myopia": (0 / 20, 0 / 20),
    "wrong_trace_preference": (5 / 20, 17 / 20),
    "wrong_trace_preference_per_token": (4 / 20, 13 / 20),
    "capacity_gap": (0 / 8, 0 / 8),
    "accuracy_on_student_prefixes": (0 / 20, 1 / 20),
}
COMMON = 0.5

Finding = Mapping[str, Any]


def badge(finding: Finding) -> str:
    """Return the word that a finding is told with: how grave the harm is, or where it measures no harm, how much room
    there is to move the teacher."""
    room = finding.get("room")
    if room is None:
        return str(finding.get("severity"))
    return "room unclear" if room == "unclear" else f"{'no' if room == 'none' else room} room"


def group_of(finding: Finding, knob: Sequence[Mapping[str, Any]] = ()) -> Group:
    """Return the group of a finding. `knob` are the rows of the diagnosis on how far the knob turns."""
    if not finding.get("applicable", True):
        return "not asked"
    name, severity = finding.get("name"), finding.get("severity")
    if name == KNOB:
        advised = finding.get("task") in _turns_far(knob) or OF_REWARD in str(finding.get("remedy"))
        return "knob" if advised else "slight"
    if severity not in GRAVE:
        return "slight"
    if name in PREMISES:
        return "premise"
    return "background" if _uncaused(finding) >= COMMON else "pair"


def _turns_far(knob: Sequence[Mapping[str, Any]]) -> set[Any]:
    """The tasks on which an η below 0 turns the teacher far, by ways of writing."""
    return {
        row.get("task")
        for row in knob
        if row.get("scope") == "ways" and row.get("turns") == "far" and _below_zero(row.get("eta"))
    }


def _below_zero(eta: object) -> bool:
    return isinstance(eta, int | float) and eta < 0


def _uncaused(finding: Finding) -> float:
    """The share of the pairs without a cause on which this trap is as grave; 0 of a trap that wasn't asked there."""
    high, medium = UNCAUSED.get(str(finding.get("name")), (0.0, 0.0))
    return high if finding.get("severity") == "high" else medium


def unfounded(findings: Sequence[Finding]) -> set[Any]:
    """Return the tasks on which a premise fails: what other findings advise there is no use before that is mended."""
    return {finding.get("task") for finding in findings if group_of(finding) == "premise"}


def ranked(findings: Sequence[Finding], knob: Sequence[Mapping[str, Any]] = ()) -> list[Finding]:
    """Return the findings in the order in which they are told."""

    def rank(finding: Finding) -> tuple[int, int, float]:
        severity = finding.get("severity")
        grave = SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)
        return GROUPS.index(group_of(finding, knob)), grave, _uncaused(finding)

    return sorted(findings, key=rank)
