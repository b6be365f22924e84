"""Chat templates: variables that are set in them, prompts as token ids, and the ends of answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.chat import eos_ids, prompt_ids, set_in_templates, turn_end, values_read
from distillknob.models.load import load_model, load_tokenizer
from distillknob.models.scoring import answer_ids

PROMPT = [{"role": "user", "content": "What is 11-22?"}]


THINKS = "{% if enable_thinking is not defined or enable_thinking %}{{ '<|system|>' }}{% endif %}"


def test_a_template_s_variable_is_set_once_and_for_all() -> None:
    thinker, other = load_tokenizer("zoo:teacher"), load_tokenizer("zoo:student-other")
    plain, untouched = prompt_ids(thinker, [PROMPT]), other.chat_template
    thinker.chat_template = f"{THINKS}{thinker.chat_template}"
    assert prompt_ids(thinker, [PROMPT]) != plain
    for _ in range(2):
        set_in_templates({"a": thinker, "b": other}, {"enable_thinking": False})
    assert prompt_ids(thinker, [PROMPT]) == plain
    assert thinker.chat_template.count("set enable_thinking") == 1 and other.chat_template == untouched
    thinker.chat_template = {"default": f"{THINKS}x", "tool_use": "y"}
    set_in_templates({"a": thinker}, {"enable_thinking": False})
    assert thinker.chat_template == {"default": f"{{%- set enable_thinking = false %}}{THINKS}x", "tool_use": "y"}


def test_a_variable_is_set_anew_whatever_it_was(teacher: LanguageModel) -> None:
    tokenizer = load_tokenizer("zoo:teacher")
    plain = prompt_ids(tokenizer, [PROMPT])
    tokenizer.chat_template = f"{THINKS}{{% if name is defined %}}{{% endif %}}{tokenizer.chat_template}"
    for value in (False, True, False):
        set_in_templates({"a": tokenizer}, {"name": "é %} \\"})
        set_in_templates({"a": tokenizer}, {"enable_thinking": value})
        assert (prompt_ids(tokenizer, [PROMPT]) == plain) is not value
        assert tokenizer.chat_template.count("set enable_thinking") == tokenizer.chat_template.count("set name") == 1


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"enable_thinkng": False}, "no chat template of a reads it"),
        ({"enable thinking": False}, "give a variable's name"),
        ({"tools": [1]}, "give a variable's name and a bool, number or string"),
    ],
)
def test_a_template_s_variable_that_cannot_be_set_is_told(values: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        set_in_templates({"a": load_tokenizer("zoo:teacher")}, values)


def test_the_variables_that_a_template_reads_are_told_from_others() -> None:
    thinker, other = load_tokenizer("zoo:teacher"), load_tokenizer("zoo:student-other")
    thinker.chat_template = f"{THINKS}{thinker.chat_template}"
    assert values_read(thinker, {"enable_thinking": False, "style": 1}) == {"enable_thinking": False}
    assert values_read(other, {"enable_thinking": False}) is None


def test_prompts_end_where_the_answer_starts(teacher: LanguageModel, other: LanguageModel) -> None:
    for language_model, wanted in (
        (teacher, "<|user|>What is 11-22?<|end|><|assistant|>"),
        (other, "[user]What is 11-22?</s>[reply]"),
    ):
        tokenizer = language_model.tokenizer
        long = [{"role": "user", "content": "What is 11-22 and so on and so on?"}]
        short_ids, long_ids = prompt_ids(tokenizer, [PROMPT, long])
        assert tokenizer.decode(short_ids) == wanted
        assert tokenizer.pad_token_id not in short_ids and len(long_ids) > len(short_ids)
        assert prompt_ids(tokenizer, [PROMPT]) == [short_ids]
        assert prompt_ids(tokenizer, []) == []


def test_an_answer_ends_as_a_turn_of_the_template_does(other: LanguageModel, copied: Path) -> None:
    """Gemma's and Phi-3's eos isn't the end of a turn."""
    tokenizer = load_tokenizer(str(copied))
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert turn_end(tokenizer) == end and turn_end(other.tokenizer) == other.tokenizer.eos_token_id
    tokenizer.eos_token = "<|system|>"
    assert tokenizer.eos_token_id != end == turn_end(tokenizer)
    assert answer_ids(LanguageModel(load_model(str(copied)).model, tokenizer), ["1"], [True])[0][-1] == end
    tokenizer.chat_template = "{{ messages[0]['content'] }}"  # shows no end
    assert turn_end(tokenizer) == tokenizer.eos_token_id
    tokenizer.chat_template = "{{ raise_exception('prompts alone') }}"
    assert turn_end(tokenizer) == tokenizer.eos_token_id


def test_every_end_of_an_answer_counts(copied: Path) -> None:
    model, tokenizer = load_model(str(copied))
    assert eos_ids(LanguageModel(model, tokenizer)) == [tokenizer.eos_token_id]
    model.generation_config.eos_token_id = [9, 7, tokenizer.eos_token_id]
    assert eos_ids(LanguageModel(model, tokenizer)) == sorted({7, 9, tokenizer.eos_token_id})
    model.generation_config = None  # type: ignore[assignment]  # as of a model that generates nothing
    assert eos_ids(LanguageModel(model, tokenizer)) == [tokenizer.eos_token_id]
