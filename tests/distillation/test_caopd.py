"""CaOPD: stated confidences become the share of right samples, in what is trained on and in what the teacher sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, tensor

from distilling import Kept, config
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.edits.confidence import NOTE, share_right, stated, with_confidence
from distillknob.distillation.stage import distill
from distillknob.distillation.teacher_context.reference import REFERENCE
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.load import load_model
from pairs import Pair


def edited(student: LanguageModel, text: str, share: float) -> str:
    ids = student.tokenizer(text, add_special_tokens=False)["input_ids"]
    return str(student.tokenizer.decode(with_confidence(student.tokenizer, ids, share, [])))


@pytest.mark.parametrize(
    ("right", "text"), [(1, "0.12"), (3, "0.38"), (5, "0.62"), (7, "0.88"), (0, "0.00"), (8, "1.00")]
)
def test_exact_halves_are_rounded_to_even(student: LanguageModel, right: int, text: str) -> None:
    share = share_right(tensor([1.0] * right + [0.5] * (8 - right)), 8)[0]
    assert edited(student, "It is 4. Confidence: 0.95", share) == f"It is 4. Confidence: {text}"


def test_the_share_is_that_of_a_sample_s_own_prompt() -> None:
    assert share_right(tensor([1.0, 0.0, 1.0, 1.0]), 2) == [0.5, 0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("So 4.\nConfidence: 90%", "So 4.\nConfidence: 0.50"),
        ("confidence: 1", "Confidence: 0.50"),
        ("Confidence: 0.9 I think", "Confidence: 0.50 I think"),
        ("Confidence: 90 % or so", "Confidence: 0.50 or so"),
        ("Confidence: 95/100 or so", "Confidence: 0.50 or so"),
        ("Confidence: 9 out of 10.", "Confidence: 0.50."),
        ("Confidence: 0,9 at most", "Confidence: 0.50 at most"),
        ("Confidence: .7, I think.", "Confidence: 0.50, I think."),
        ("Confidence: 0.1 no. Confidence: 0.9", "Confidence: 0.1 no. Confidence: 0.50"),
        ("My confidence: high", "My confidence: high"),
    ],
)
def test_what_is_stated_last_is_replaced(student: LanguageModel, text: str, wanted: str) -> None:
    assert edited(student, text, 0.5) == wanted
    assert (stated(text) is None) == (text == wanted)


def test_the_tokens_before_and_the_end_stay_as_they_were_drawn(student: LanguageModel) -> None:
    tokenizer, end = student.tokenizer, student.ends[0]
    # Tokens that no tokenizer would choose for this text: letter by letter.
    before = [one for letter in "It is 4. " for one in tokenizer(letter, add_special_tokens=False)["input_ids"]]
    ids = [*before, *tokenizer("Confidence: 0.95", add_special_tokens=False)["input_ids"], end]
    changed = with_confidence(tokenizer, ids, 0.25, student.ends)
    assert changed[: len(before)] == before and changed[-1] == end and changed.count(end) == 1
    assert tokenizer.decode(changed[:-1]) == "It is 4. Confidence: 0.25"
    plain = [*before, end]
    assert with_confidence(tokenizer, plain, 0.25, student.ends) == plain


class Spaced:
    """A tokenizer of letters that puts a space before whatever it is given, and takes it off what it spells."""

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in f" {text}"]}

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids)).removeprefix(" ")


def test_a_tokenizer_that_begins_with_a_space_puts_none_into_the_text() -> None:
    tokenizer: Any = Spaced()
    ids = tokenizer("So 4.Confidence: 0.9")["input_ids"]
    changed = with_confidence(tokenizer, ids, 0.5, [])
    assert tokenizer.decode(changed) == "So 4.Confidence: 0.50" and changed[:6] == ids[:6]


class Sure(Kept):
    """Its student always states a confidence; one sample of four is right."""

    def _rolled_out(self, prompt_ids: Any) -> list[list[int]]:
        super()._rolled_out(prompt_ids)
        end = self.eos_token_ids[0]
        return [
            [*self._tokenizer(f"Say {b}. Confidence: 0.9", add_special_tokens=False)["input_ids"], end]
            for b in range(len(prompt_ids))
        ]

    def _graded(self, rows: Any, batch: Any) -> Tensor:
        return (torch.arange(len(rows)) % 4 == 0).float()


def test_the_student_s_text_and_the_teacher_s_demonstration_hold_one_value(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    settings = config(tiny_pair, "caopd", num_generations=4, tasks=["math"], max_completion_length=40)
    distill(settings, tmp_path / "run", trainer_class=Sure)
    tokenizer = load_model(tiny_pair.student).tokenizer
    assert len(batches) == 2
    for batch in batches:
        texts = tokenizer.batch_decode(batch["completion_ids"], skip_special_tokens=True)
        shown = tokenizer.batch_decode(batch["teacher_prompt_ids"])
        assert all(text.endswith("Confidence: 0.25") for text in texts)
        assert all("Confidence: 0.25" in text and "reference solution" in text for text in shown)
        assert not batch["loss_mask"][:, :3].any() and batch["loss"] > 0


def test_the_first_step_costs_what_is_counted_by_hand(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    """The reverse KL at each token behind the third, to the student itself behind the solution with the share."""
    settings = config(tiny_pair, "caopd", num_generations=4, tasks=["math"], max_completion_length=40, max_steps=1)
    run = distill(settings, tmp_path / "run", trainer_class=Sure)
    (batch,) = batches
    loaded = load_model(tiny_pair.student)
    solutions = {row["prompt"][-1]["content"]: row["solution"][0]["content"] for row in run.samples()}
    total, tokens = 0.0, 0
    for b in range(4):
        asked = batch["prompt_ids"][b][batch["prompt_mask"][b].bool()]
        question = next(text for text in solutions if text in loaded.tokenizer.decode(asked))
        shown = f"{solutions[question]}\nConfidence: 0.25\n{NOTE}"
        messages = [{"role": "user", "content": REFERENCE.format(prompt=question, solution=shown)}]
        behind = loaded.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        written = loaded.tokenizer(f"Say {b}. Confidence: 0.25", add_special_tokens=False)["input_ids"]
        ids = torch.tensor([*written, loaded.tokenizer.eos_token_id])
        logq, logp = (
            loaded.model(input_ids=torch.cat([prompt, ids])[None]).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            for prompt in (asked, torch.tensor(behind))
        )
        total += float((logq.exp() * (logq - logp)).sum(-1)[3:].sum())
        tokens += len(ids) - 3
    assert batch["loss"] == pytest.approx(total / tokens, rel=1e-3)


def test_where_nobody_states_a_confidence_that_is_told_at_the_first_step(tiny_pair: Pair, tmp_path: Path) -> None:
    settings = config(tiny_pair, "caopd", num_generations=4, tasks=["math"], max_completion_length=12)
    with pytest.raises(BadInputError, match="none of the first 4 completions states a confidence"):
        distill(settings, tmp_path / "run", trainer_class=Kept)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"method": "caopd", "num_generations": 1}, "num_generations to 2 or more"),
        ({"method": "opd_pg", "edit": "confidence", "num_generations": 2}, "needs the tokens that the student drew"),
        ({"method": "gkd", "edit": "confidence"}, "set num_generations|set lmbda to 1"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        DistillConfig(**values)
