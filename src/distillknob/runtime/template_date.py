"""The date in a chat template: Llama 3 and Granite 3 write today's into every prompt (`strftime_now`).

A run shall read one text on all its days, so the date is written into the template, as a macro of the function's own
name before the template's text. A user may set it for good, `chat_template_kwargs: {strftime_now: 2026-01-31}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from distillknob.errors import BadInputError
from distillknob.runtime.processes import notice

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CLOCK = "strftime_now"  # what transformers calls the function
# What `strftime` knows, with the forms without a leading zero of the C library on Linux and macOS.
_DIRECTIVES = [*"aAbBcdDeFgGhHIjmMnprRSTuUVwWxXyYzZ", "-d", "-m", "-H", "-I", "-j", "-y"]
HEADER = re.compile(
    r"\{#- (?P<whose>date of the run|date) #\}\{%- macro strftime_now\(pattern\) -%\}.*?\{%- endmacro \+%\}", re.DOTALL
)


def reads_clock(template: str) -> bool:
    """Does the template ask for the date of the day, or have one from a run? A date that a user set is settled."""
    header = HEADER.search(template)
    return CLOCK in without_date(template) and (header is None or header["whose"] != "date")


def without_date(template: str) -> str:
    """The template as it was before `with_date`."""
    return HEADER.sub("", template)


def with_date(template: str, day: str, *, pinned: bool) -> str:
    """The template with `day` (ISO) for today, whatever date it had before. `pinned` says that a user set it, so that
    it belongs to the model and not to a run. Raises BadInputError for what is no date."""
    try:
        moment = datetime.combine(date.fromisoformat(day), datetime.min.time())
    except (TypeError, ValueError) as error:
        raise BadInputError(f"chat_template_kwargs sets {CLOCK} to {day!r}: give a date, such as 2026-01-31") from error
    replaced = {f"%{one}": moment.strftime(f"%{one}") for one in _DIRECTIVES}
    text = "".join(f"|replace({json.dumps(old)}, {json.dumps(new)})" for old, new in replaced.items())
    whose = "date" if pinned else "date of the run"
    header = f"{{#- {whose} #}}{{%- macro {CLOCK}(pattern) -%}}{{{{- pattern{text} -}}}}{{%- endmacro +%}}"
    return header + without_date(template)


def templates_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """A tokenizer's chat templates by name; its only one by none."""
    templates: Any = tokenizer.chat_template
    return templates if isinstance(templates, dict) else {"": templates}


def by_name(*sides: tuple[str, PreTrainedTokenizerBase]) -> dict[str, PreTrainedTokenizerBase]:
    """The tokenizers of a stage's models by name. A model may be its own target or teacher, with two tokenizers of one
    name, and each of them has to read the same."""
    named: dict[str, PreTrainedTokenizerBase] = {}
    for name, tokenizer in sides:
        named[name if name not in named else f"{name} ({len(named) + 1})"] = tokenizer
    return named


def fix_dates(tokenizers: Mapping[str, PreTrainedTokenizerBase], day: str, *, tell: bool = True) -> None:
    """Write `day` (ISO, a run's `template_date`) into those chat templates of these models that ask for the date of the
    day, in place, and `tell` the user. The prompts of a run are then the same on all its days."""
    dated = [name for name, one in tokenizers.items() if any(map(reads_clock, templates_of(one).values()))]
    for name in dated:
        _set_date(tokenizers[name], day, pinned=False)
    if dated and tell:
        notice(
            f"the chat template of {', '.join(dated)} writes the date into its prompts: {day} in all of this run. For "
            f"the same prompts in a run of another day, set chat_template_kwargs to {json.dumps({CLOCK: day})}"
        )


def pin_date(tokenizers: Mapping[str, PreTrainedTokenizerBase], day: Any, *, needed: bool) -> None:
    """Write the `day` (ISO) that a user set into the chat templates that read a date, for good. Raises BadInputError
    for what is no date, and where it is `needed` and no template reads one."""
    read = [one for one in tokenizers.values() if any(CLOCK in without_date(t) for t in templates_of(one).values())]
    if needed and not read:
        raise BadInputError(
            f"chat_template_kwargs sets {CLOCK!r}, but no chat template of {', '.join(tokenizers)} reads the date: "
            "leave it out"
        )
    for tokenizer in read:
        _set_date(tokenizer, day, pinned=True)


@contextmanager
def undated(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """The tokenizer without the date of a run in its chat templates, to be saved: that date isn't the model's."""
    before: Any = tokenizer.chat_template
    bare = {kind: without_date(one) if reads_clock(one) else one for kind, one in templates_of(tokenizer).items()}
    tokenizer.chat_template = bare.get("", bare)
    try:
        yield
    finally:
        tokenizer.chat_template = before


def _set_date(tokenizer: PreTrainedTokenizerBase, day: Any, *, pinned: bool) -> None:
    changed = {
        kind: with_date(one, day, pinned=pinned) if CLOCK in without_date(one) else one
        for kind, one in templates_of(tokenizer).items()
    }
    tokenizer.chat_template = changed.get("", changed)
