"""The methods of distillation for a reader: a list and one method on the terminal, and docs/reference/methods.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from distillknob.cli.layout import wrapped
from distillknob.errors import BadInputError, nearest
from distillknob.methods import FAMILIES, METHODS, Method
from distillknob.methods.systems import SYSTEMS, System

INTRODUCTION = """# Methods

<!-- Written by `distillknob methods --page`: change the rows in src/distillknob/methods/, then write it anew. -->

How a student may learn. `distillknob distill --method NAME` takes one, `distillknob compare` sets many side by side,
`distillknob methods` lists them and `distillknob methods NAME` shows one.

A method is a point of a grid. Its parts can each be replaced: `--divergence` (the loss), `--traces`, `--selection`,
`--lmbda` (λ, the share of steps on the student's own samples), `--sources`, `--tokens`, `--token-weights`, `--context`,
`--teacher-weights`, `--soft-target`, `--query-weights`, `--edit`, `--num-generations`. Parts that make no sense
together are refused before any work. Numbers of the parts are set by `--options '{"NAME": VALUE}'`; their defaults are
the published ones where there are any. In a method's line of parts `loss` is what `--divergence` replaces, `weights` is
`--token-weights`, `queries` is `--query-weights` and `teacher` is `--teacher-weights`.

Some methods need to be told more:

| for | give | which is |
|---|---|---|
| `skill_sd`, `--context skill` | `--skills FILE` | JSON lines: `skill`, and `task` (its name) or `prompt` (its text) |
| `private_tokens` | `--private FILE` | regular expressions, one a line, of what is private |
| `mopd`, `--teacher-weights routed` | `--teachers '{"TASK": "MODEL"}'` | each task's own teacher |
| `averaged_teachers` | `--teachers '{"NAME": "MODEL"}'` | the teachers, by names of your own |
| `dp_opd` | `--dp-epsilon` or `--dp-noise`, `--dp-delta` | the privacy to keep to; needs `distillknob[dp]` |
| `redi`, `opd_after_sft`, `--first METHOD` | `--first-share` | the first phase's share of the steps (0.5) |
| `ps_kd` | `--problems`, `--max-steps` | few enough problems that each is read twice |
| `--traces file` | `--traces-file FILE` | JSON lines with `prompt` and `completion` |

In the formulas p is the teacher's next-token distribution, q the student's, y a text, x its prompt, sg[·] has no
gradient, and sums go over the tokens of a text.
"""
SYSTEMS_INTRODUCTION = """## Forty-four systems, and where each stands here

What is called distillation, in this field and beside it. *Built* is its objective or protocol; *analogue* is what of it
means something for a causal language model.
"""


def methods_text() -> str:
    """Every method with its summary, by family."""
    width = max(map(len, METHODS))
    parts = []
    for family, rows in FAMILIES.items():
        lines = [f"  {name:<{width}}  {row.summary}" for name, row in rows.items()]
        parts.append("\n".join([family, *lines]))
    return "\n\n".join(parts)


def method_text(name: str) -> str:
    """One method: what it is, when to take it, its parts, options and cost. Raises BadInputError for an unknown one."""
    if name not in METHODS:
        guess = nearest(name, METHODS, otherwise=": distillknob methods lists them")
        raise BadInputError(f"there is no method {name!r}{guess}")
    method = METHODS[name]
    told = {
        "": method.summary,
        "loss": method.formula,
        "take it when": method.when,
        "a step costs": costs(name),
        "paper": "none" if method.paper is None else f"arXiv {method.paper}",
        "ours": method.ours or "nothing",
        "parts": method.parts,
    }
    lines = [f"{name}: {method.label}"]
    lines += [wrapped(text, f"  {what}: " if what else "  ") for what, text in told.items()]
    lines += [wrapped(f"{value:g}. {text}", f"  option {option}: ") for option, value, text in options(name)]
    return "\n".join(lines)


def options(name: str) -> Iterator[tuple[str, float, str]]:
    """The options of a method's parts: name, value and what it is."""
    from distillknob.distillation.options import options_of
    from distillknob.distillation.parts import PartsAlone

    for part in PartsAlone(method=name).made_parts:
        for option, field in options_of(part).items():
            yield option, float(getattr(part, option)), str(field.metadata["option"])


def costs(name: str) -> str:
    """What a step costs beside the student's own pass with gradients, in words."""
    from distillknob.distillation.parts import PartsAlone

    parts_alone, method = PartsAlone(method=name), METHODS[name]
    parts = []
    if method.sources != "fixed":
        parts.append(
            "the student writes the texts of some steps, more of them while the validation loss rises, and reads "
            "held-back traces now and then"
        )
    elif method.lmbda:
        each = "every step" if method.lmbda == 1 else f"{method.lmbda:.0%} of the steps"
        drawn = f", {method.num_generations} a prompt" if method.num_generations > 1 else ""
        parts.append(f"the student writes the texts of {each}{drawn}")
    if parts_alone.loss.asks_teacher:
        parts.append("the teacher reads each text")
    parts += [f"the student at the {which} reads it, too" for which in parts_alone.loss.models]
    if method.tokens != "all":
        parts.append("the student and, where both are compared, the teacher read it once more before")
    parts += [part.costs for part in parts_alone.made_parts if getattr(part, "costs", "")]
    if method.selects or method.traces == "teacher_pairs":
        parts.append("before the training the teacher writes several candidates a problem")
    if method.teacher == "averaged":
        parts.append("so does every teacher")
    if method.queries != "all":
        parts.append("before the training the traces are scored")
    if parts_alone.grades:
        parts.append("each text is graded")
    if method.first is not None:
        parts.append(f"the steps are shared with a first phase of {method.first}")
    if method.after_rate != 1:
        parts.append(f"the learning rate after that phase is {method.after_rate:g} of that before")
    return "; ".join(parts) or "nothing more"


def methods_page() -> str:
    """The page `docs/reference/methods.md`, whole."""
    parts = [INTRODUCTION]
    for family, rows in FAMILIES.items():
        parts.append(f"## {family}\n")
        parts += [_section(name, method) for name, method in rows.items()]
    parts += [SYSTEMS_INTRODUCTION, _systems(SYSTEMS)]
    return "\n".join(parts)


def _section(name: str, method: Method) -> str:
    rows: list[tuple[str, str]] = [
        ("take it when", method.when),
        ("a step costs", costs(name)),
        ("paper", "" if method.paper is None else _arxiv(method.paper)),
        ("ours", method.ours),
        ("parts", f"`{method.parts}`"),
    ]
    rows += [(f"option `{option}`", f"{value:g}: {text}") for option, value, text in options(name)]
    table = [f"| {what} | {_cell(text)} |" for what, text in rows if text]
    lines = [f"### `{name}`: {method.label}", "", f"{method.summary} Loss: {method.formula}", ""]
    return "\n".join([*lines, "| | |", "|---|---|", *table, ""])


def _systems(systems: Sequence[System]) -> str:
    rows = ["| system | paper | here | |", "|---|---|---|---|"]
    for one in systems:
        at = ", ".join(f"[`{name}`](#{_anchor(name)})" for name in one.at)
        where = f"{one.standing}{': ' + at if at else ''}"
        rows.append(f"| {_cell(one.name)} | {_arxiv(one.paper)} | {where} | {_cell(one.note)} |")
    return "\n".join([*rows, ""])


def _anchor(name: str) -> str:
    """The anchor of a method's heading, as GitHub makes it."""
    heading = f"{name}: {METHODS[name].label}".lower()
    return "".join("-" if sign == " " else sign for sign in heading if sign.isalnum() or sign in " -_")


def _arxiv(paper: str) -> str:
    return f"[{paper}](https://arxiv.org/abs/{paper})"


def _cell(text: Any) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
