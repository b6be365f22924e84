"""What a verdict of the gate means, in sentences: for the terminal, for JSON, and for the teacher's model card.

No sentence here says that a teacher can't be distilled. A pass says what was tried, and that nothing more is known.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from distillknob.errors import BadInputError
from distillknob.gates.checks import BREACH, OPEN, PASS, percent
from distillknob.gates.evidence import Evidence
from distillknob.gates.policy import Policy
from distillknob.publishing.marks import BEGIN, END, HEADING
from distillknob.results.gates import GateFigure, GateResult

_WIDTH = 110
_MOST = 8  # figures on the terminal and in a card


def means(result: GateResult, policy: Policy, evidence: Evidence | None) -> str:
    """Say in a sentence or two what the verdict means. The reasons stand in the checks, and nowhere twice."""
    upper, utility = result["upper"], None if evidence is None else evidence.utility
    if result["verdict"] == "pass" and upper is not None and utility is not None:
        figures = [figure for figure in result["figures"] if figure["interval"] is not None]
        return (
            f"At the tier {policy.tier}, no attack of {policy.suite} recovered more than {percent(upper)} % "
            f"of the gap (upper bound, for all of them at once) from {result['target']}: {len(figures)} figures of "
            f"{_counted(len({figure['attacker'] for figure in figures}), 'attacker')}, the worst of them with at least "
            f"{_counted(policy.seeds, 'seed')}; the controls and the attacks on the original, by which "
            "R is measured, may rest on fewer. The teacher's score is at most "
            f"{percent(max(-utility[0], 0.0))} points below the original's. Another attack, more queries or another "
            "interface may recover more."
        )
    if result["verdict"] == "breach":
        return f"At the tier {policy.tier}, {result['target']} breaches the policy."
    about = "the run" if result["target"] is None else result["target"]
    return f"At the tier {policy.tier}, {about} is neither shown to keep to the policy nor to breach it."


def _counted(amount: int, thing: str) -> str:
    return f"{amount} {thing}{'' if amount == 1 else 's'}"


def gate_text(result: GateResult) -> str:
    """Tell the verdict as plain text for the terminal."""
    head = f"{result['verdict'].upper()}: {result['target'] or result['run']}, by the policy {result['policy']}"
    parts = [head, _wrapped(result["means"])]
    marks = {PASS: "  ", BREACH: "! ", OPEN: "? "}
    lines = []
    for row in result["checks"]:
        lines.append(_wrapped(f"{marks[row['outcome']]}{row['check']}: {row['reason']}"))
        if "command" in row:  # which is copied, so in a line of its own
            lines += ["    This attacks anew, with all that wasn't run:", f"    {row['command']}"]
    parts.append("\n".join(lines))
    if result["figures"]:
        shown = [f"  {_figure(figure)}" for figure in result["figures"][:_MOST]]
        parts.append("\n".join(["Recovered at the tier, in % of the gap, by the upper bound:", *shown]))
    parts += ["\n".join(_wrapped(f"note: {note}") for note in result["notes"])]
    return "\n\n".join(filter(None, parts))


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def _figure(figure: GateFigure) -> str:
    value, pair = figure["recovered"], figure["interval"]
    bounds = "undefined" if pair is None else f"[{percent(float(pair[0] or 0))}, {percent(float(pair[1] or 0))}]"
    point = "" if value is None else f"{percent(value)} "
    return (
        f"{point}{bounds} {figure['attack']} by {figure['attacker']}: {figure['access']}, "
        f"{_counted(figure['seeds'], 'seed')}" + ("" if figure["source"] == "the suite" else f" ({figure['source']})")
    )


def card_section(result: GateResult) -> str:
    """Return the section of the teacher's model card, between the marks by which the next one replaces it."""
    suite = result["suite"]
    tier = result["tier"]
    digests = [
        digest for name, parts in result["bound_to"].items() if name.startswith("model ") for digest in parts.values()
    ]
    lines = [
        BEGIN,
        HEADING,
        "",
        f"**{result['verdict'][:1].upper()}{result['verdict'][1:]}.** {result['means']}",
        "",
        *_reasons(result),
        *([f"- threat model: {tier['text']}"] if tier else []),
        *([f"- suite: {suite['name']} (`{suite['sha256'][:12]}`)"] if suite else []),
        *([f"- attacked: {result['measured']}"] if result["measured"] else []),
        *([f"- holds for these weights alone: {len(digests)} files by SHA-256, in `gate.json`"] if digests else []),
        *([f"- policy: `{Path(result['policy']).name}` (`{(result['policy_sha256'] or '')[:12]}`)"]),
        *(f"- {_figure(figure)}, % of the gap" for figure in result["figures"][:_MOST]),
        *(f"- {note}" for note in result["notes"]),
        END,
    ]
    return "\n".join(lines) + "\n"


def _reasons(result: GateResult) -> list[str]:
    """The list of what keeps a teacher from passing: breaches first."""
    rows = [(mark, row) for mark in (BREACH, OPEN) for row in result["checks"] if row["outcome"] == mark]
    if not rows:
        return []
    listed = [f"- {row['check']}{'' if mark == OPEN else ' (breach)'}: {row['reason']}" for mark, row in rows]
    return ["What keeps it from a pass:", "", *listed, "", "What was judged:", ""]


def with_section(card: str, section: str, name: str) -> str:
    """Return the card `name` with the section, in the place of the one that it held or else at its end.

    Raises BadInputError where it holds only one of the marks, or one of them twice.
    """
    marks = (card.count(BEGIN), card.count(END))
    if marks == (0, 0):
        return f"{card.rstrip()}\n\n{section}" if card.strip() else section
    if marks != (1, 1) or card.index(BEGIN) > card.index(END):
        raise BadInputError(
            f"{name} holds {marks[0]} times {BEGIN} and {marks[1]} times {END}: remove the damaged section"
        )
    before, rest = card.split(BEGIN)
    return before + section.rstrip() + rest.split(END)[1]
