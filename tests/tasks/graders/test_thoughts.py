"""Thoughts and answers: the marks of many models, cut off, opened in the prompt, or hidden by the decoding."""

from __future__ import annotations

import pytest

from distillknob.evaluation.measure import AnswerReader
from distillknob.models.load import load_tokenizer
from distillknob.tasks.graders.choice import chosen_letter
from distillknob.tasks.graders.committed import answer_or_last_line
from distillknob.tasks.graders.mathematics import is_correct
from distillknob.tasks.graders.thoughts import after_thinking, unclosed_mark
from pairs import Pair

HARMONY = "<|channel|>analysis<|message|>", "<|start|>assistant<|channel|>final<|message|>"
PAIRS = [
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought\n", "<channel|>"),
    HARMONY,
]


@pytest.mark.parametrize(("opens", "closes"), PAIRS)
def test_the_answer_is_what_stands_outside_of_the_thoughts(opens: str, closes: str) -> None:
    assert after_thinking(f"{opens}Answer: 5{closes}Answer: 7") == "Answer: 7"
    assert after_thinking(f"Answer: 5{closes}Answer: 7") == "Answer: 7"  # opened in the prompt
    assert after_thinking(f"{opens}Answer: 5") == ""  # cut off
    assert after_thinking(f"{opens}a{opens}b{closes}c") == "c"  # opened twice: the next closing mark ends them
    assert after_thinking(f"{opens}a{closes}b{closes}c") == "c"
    assert after_thinking(f"{opens}a{closes}first{opens}b{closes}second") in ("first\n\nsecond", "second")
    assert after_thinking(f"{opens}a{closes}said{opens}cut off") == "said"
    assert after_thinking("Answer: 7") == "Answer: 7"
    assert unclosed_mark(f"x{opens}y") == opens.rstrip() and unclosed_mark(f"{opens}y{closes}z") == ""


def test_a_mark_of_another_kind_ends_no_thoughts() -> None:
    assert after_thinking("<think>a[/THINK]b</think>c") == "c"
    assert after_thinking("<|channel|>analysis<|message|>a<|start|>assistant<|channel|>commentary<|message|>b") == ""


@pytest.mark.parametrize(("opens", "closes"), PAIRS)
def test_every_grader_reads_the_answer_alone(opens: str, closes: str) -> None:
    cut, ended = opens + "so \\boxed{18}. But wait, Answer: 18", f"{opens}Answer: 18{closes}Answer: 19"
    assert not is_correct(cut, "18") and not is_correct(ended, "18") and is_correct(ended, "19")
    assert answer_or_last_line(cut) is None and answer_or_last_line(ended) == "19"
    assert chosen_letter(f"{opens}Answer: (B), but", ["a", "b", "c"]) is None
    assert chosen_letter(f"{opens}Answer: (B){closes}Answer: (C)", ["a", "b", "c"]) == "C"


TEMPLATE = (
    "{{% for m in messages %}}{{{{ m['content'] }}}}|{{% endfor %}}{{% if add_generation_prompt %}}{}{{% endif %}}"
)


@pytest.mark.parametrize(
    ("ending", "opened"),
    [
        ("assistant\n<think>\n", "<think>"),  # DeepSeek-R1, QwQ, Qwen3-Thinking
        ("assistant\n<think>\n\n</think>\n\n", ""),  # Qwen3 with enable_thinking false
        ("<｜Assistant｜><think>\n", "<think>"),
        ("[/INST][THINK]", "[THINK]"),
        ("◁think▷", "◁think▷"),
        ("<|start|>assistant", ""),  # gpt-oss opens its channel itself
        ("<|start|>assistant<|channel|>analysis<|message|>", "<|start|>assistant<|channel|>analysis<|message|>"),
        ("<|start|>assistant<|channel|>final<|message|>", ""),
        ("assistant\n", ""),
    ],
)
def test_the_reader_knows_what_the_template_opened(tiny_pair: Pair, ending: str, opened: str) -> None:
    tokenizer = load_tokenizer(tiny_pair.teacher)
    tokenizer.chat_template = TEMPLATE.format(ending)
    reader = AnswerReader(tokenizer)
    prompt = [{"role": "user", "content": "What does the tag <think> mean?"}]  # a question opens no thoughts
    assert reader.opened(prompt) == opened
    answer = reader.answer("Answer: 18. But wait", [], reader.opened(prompt))
    assert answer == ("" if opened else "Answer: 18. But wait")


def test_a_template_that_begins_differently_for_a_generation_is_read_behind_its_last_words(tiny_pair: Pair) -> None:
    tokenizer = load_tokenizer(tiny_pair.teacher)
    tokenizer.chat_template = "{% if add_generation_prompt %}Now.{% endif %}" + TEMPLATE.format("<think>")
    reader = AnswerReader(tokenizer)
    assert reader.opened([{"role": "user", "content": "</think> or <think>?"}]) == "<think>"
    tokenizer.chat_template = "{% if add_generation_prompt %}Now.{% endif %}" + TEMPLATE.format("")
    assert reader.opened([{"role": "user", "content": "</think> or <think>?"}]) == ""


@pytest.mark.parametrize(("opens", "closes"), [("[THINK]", "[/THINK]"), HARMONY])
def test_marks_that_are_special_tokens_are_seen_though_the_text_hides_them(
    tiny_pair: Pair, opens: str, closes: str
) -> None:
    tokenizer = load_tokenizer(tiny_pair.teacher)
    tokens = ["[THINK]", "[/THINK]", "<|start|>", "<|channel|>", "<|message|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    reader = AnswerReader(tokenizer)

    def answer(text: str) -> str:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        hidden = str(tokenizer.decode(ids, skip_special_tokens=True))
        assert opens not in hidden and tokenizer.eos_token not in reader.answer(hidden, ids)
        return reader.answer(hidden, ids).replace(" ", "")

    assert answer(f"{opens}Answer: 5{closes}Answer: 7") == "Answer:7"
    assert answer(f"{opens}Answer: 5") == ""


def test_behind_a_chat_interface_the_text_is_all_that_is_read() -> None:
    reader = AnswerReader(None)
    assert reader.opened([{"role": "user", "content": "<think>"}]) == ""
    assert reader.answer("<think>5</think>7", []) == "7"
