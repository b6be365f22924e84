"""Chat templates: their variables, prompts as token ids, and the tokens that end an answer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distillknob.errors import BadInputError
from distillknob.runtime.template_date import CLOCK, HEADER, pin_date, templates_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distillknob.models.loaded.base import Loaded


# A line that `set_in_templates` puts before a template.
_SET = re.compile(r'\{%- set (\w+) = (?:true|false|-?[\d.eE+-]+|"(?:[^"\\]|\\.)*") %\}')


def set_in_templates(
    tokenizers: Mapping[str, PreTrainedTokenizerBase], values: Mapping[str, Any] | None, *, needed: bool = True
) -> None:
    """Set variables of the chat templates of these models' tokenizers, such as `{"enable_thinking": False}`, in place.

    They are written into the templates, so that whoever renders a prompt from here on renders the same, TRL and vLLM
    included, and a model that is saved with its tokenizer answers as it was trained. A template that doesn't read a
    variable is as it was. Raises BadInputError where it is `needed` and none reads it, and for values that aren't
    plain.
    """
    for name, value in (values or {}).items():
        if name == CLOCK:
            pin_date(tokenizers, value, needed=needed)
            continue
        if not name.isidentifier() or not isinstance(value, bool | int | float | str):
            raise BadInputError(
                f"chat_template_kwargs sets {name!r} to {value!r}: give a variable's name and a bool, number or string"
            )
        readers = 0
        for tokenizer in tokenizers.values():
            changed = {}
            line = f"{{%- set {name} = {json.dumps(value, ensure_ascii=False)} %}}"
            for kind, template in templates_of(tokenizer).items():
                body, before = template, ""
                while (line_set := _SET.match(body) or HEADER.match(body)) is not None:
                    before += line_set[0] if line_set[1] != name else ""  # a value that was set before gives way
                    body = body[line_set.end() :]
                reads = _reads(body, name)
                readers += reads
                changed[kind] = f"{line}{before}{body}" if reads else template
            tokenizer.chat_template = changed.get("", changed)  # one, or several by name
        if needed and not readers:
            raise BadInputError(
                f"chat_template_kwargs sets {name!r}, but no chat template of {', '.join(tokenizers)} reads it: check "
                "its spelling, or leave it out"
            )


def _reads(template: str, name: str) -> bool:
    return re.search(rf"\b{name}\b", template) is not None


def values_read(tokenizer: PreTrainedTokenizerBase, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Those of the `values` whose variables the chat template reads; None where it reads none."""
    templates = templates_of(tokenizer).values()
    return {key: value for key, value in values.items() if any(_reads(one, key) for one in templates)} or None


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[list[dict[str, str]]]) -> list[list[int]]:
    """Chat messages as token ids, by the tokenizer's own chat template, up to where the answer starts."""
    if not prompts:
        return []
    ids: Any = tokenizer.apply_chat_template(
        list(prompts), add_generation_prompt=True, tokenize=True, return_dict=True, padding=False
    )
    return [list(row) for row in ids["input_ids"]]


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token with which an answer ends in the tokenizer's chat template, which isn't the eos for Gemma and Phi-3:
    they end a turn by a token of its own. The eos where the template shows none."""
    from jinja2 import TemplateError

    turn = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "ANSWER"}]
    try:
        rendered = str(tokenizer.apply_chat_template(turn, tokenize=False))
    except TemplateError:  # a template of prompts alone
        return int(tokenizer.eos_token_id)
    behind: list[int] = tokenizer(rendered.rpartition("ANSWER")[2].lstrip(), add_special_tokens=False)["input_ids"]
    added = tokenizer.added_tokens_decoder
    ends = behind and behind[0] in added and added[behind[0]].special
    return int(behind[0] if ends else tokenizer.eos_token_id)


def eos_ids(language_model: Loaded) -> list[int]:
    """Every token that ends an answer: the tokenizer's eos and those of the model's generation config."""
    model, tokenizer = language_model.model, language_model.tokenizer
    ids = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    return sorted({tokenizer.eos_token_id, *ids})
