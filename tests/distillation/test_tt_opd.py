"""TT-OPD: that its mask, its hint and its moving average are each at work, and that without them there is nothing."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, tensor

from distilling import Kept, Rewarded, config
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.distillation.teacher_context.base import Context, Written
from distillknob.distillation.teacher_context.outcome_hint import CONFIRM, CORRECT, OutcomeHint
from distillknob.distillation.token_weights.first_turns import FirstTurns, turn_of_tokens, turns_before
from distillknob.errors import BadInputError
from distillknob.models.load import load_model
from distillknob.training.advantages import group_z_score
from pairs import Pair

END = 9


def test_a_turn_ends_with_its_end_and_the_prompt_s_turns_come_before() -> None:
    ids = tensor([[1, 2, END, 3, END, 4], [5, END, 6, END, 7, END]])
    assert turn_of_tokens(ids, tensor([0, 2]), [END]).tolist() == [[1, 1, 1, 2, 2, 3], [3, 3, 4, 4, 5, 5]]
    asked = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}, {"role": "user", "content": "?"}]
    assert (turns_before(asked), turns_before(asked[:1]), turns_before("?")) == (1, 0, 0)


def counted(turns: int, prompt: list[dict[str, str]]) -> list[bool]:
    class Step:
        rows = ({"prompt": prompt},)
        batch = MappingProxyType({"completion_ids": tensor([[1, 2, END, 3]])})
        ends = (END,)

    return [bool(one) for one in FirstTurns(turns=turns).counts(Step())[0]]  # type: ignore[arg-type]


def test_later_turns_do_not_count_and_0_is_no_mask() -> None:
    user, answered = {"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}
    assert counted(1, [user]) == [True, True, True, False]
    assert counted(2, [user, answered, user]) == [True, True, True, False]
    assert counted(1, [user, answered, user]) == [False] * 4
    assert counted(0, [user, answered, user]) == [True] * 4


def test_the_hint_stands_at_the_end_of_the_prompt_and_follows_the_reward() -> None:
    rows = [{"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?"}]}] * 3
    shown = OutcomeHint().shown(Written(rows, ["a", "b", "c"], tensor([1.0, 0.0, 0.5]), 3))
    assert [one[-1]["content"] for one in shown if one] == ["What?" + CONFIRM, "What?" + CORRECT, "What?" + CONFIRM]
    assert all(one is not None and one[0]["content"] == "Be brief." for one in shown)
    assert rows[0]["prompt"][-1]["content"] == "What?"


def test_mask_hint_and_average_are_all_at_work(tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]) -> None:
    moved = []

    class Watched(Rewarded):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            teacher: Any = self.teacher_model
            moved.append(teacher.model.layers[0].mlp.up_proj.weight.detach().clone())
            return super().training_step(*args, **kwargs)

    settings = config(
        tiny_pair, "tt_opd", tasks=["math"], max_steps=2, options={"average_every": 1, "average_rate": 0.5}
    )
    distill(settings, tmp_path / "run", trainer_class=Watched)
    assert len(batches) == 2
    shown = load_model(tiny_pair.student).tokenizer.batch_decode(batches[0]["teacher_prompt_ids"])
    texts = [hint.strip() for hint in (CONFIRM, CORRECT)]
    assert sorted(sum(hint in text for hint in texts) for text in shown) == [1] * 4
    assert sum(texts[0] in text for text in shown) == 2
    assert (moved[1] - moved[0]).abs().max() > 1e-5
    for batch in batches:
        here = batch["completion_mask"].bool()
        assert torch.equal(batch["loss_mask"], batch["completion_mask"])  # one turn each
        z = group_z_score((torch.arange(4) % 2).float(), 4)
        reward = torch.where((batch["advantage"] > 0).float().mean(1) > 0.5, z.max(), z.min())
        assert (batch["advantage"] - reward[:, None])[here].abs().max() > 1e-3  # the hint changes what is taught


def logprobs(model: Any, prompt: Tensor, completion: Tensor) -> Tensor:
    """Of the tokens of one completion, without padding."""
    with torch.no_grad():
        logits = model(input_ids=torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(completion)), completion]


def test_the_first_step_costs_what_is_counted_by_hand(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    """Rewards 0, 1, 0, 1 have the mean ½ and the deviation √⅓, so that z is ±√¾; α is 4, and the average is still the
    student, behind the hint."""
    distill(config(tiny_pair, "tt_opd", tasks=["math"], max_steps=1), tmp_path / "run", trainer_class=Rewarded)
    (batch,) = batches
    loaded, total, tokens = load_model(tiny_pair.student), 0.0, 0
    for b in range(4):
        plain, hinted = (
            batch[f"{name}_ids"][b][batch[f"{name}_mask"][b].bool()] for name in ("prompt", "teacher_prompt")
        )
        written = batch["completion_ids"][b][batch["completion_mask"][b].bool()]
        z = 0.75**0.5 if CONFIRM.strip() in loaded.tokenizer.decode(hinted) else -(0.75**0.5)
        ratio = logprobs(loaded.model, hinted, written) - logprobs(loaded.model, plain, written)
        total, tokens = total - float((z + 4 * ratio).sum()), tokens + len(written)
    assert batch["loss"] == pytest.approx(total / tokens, rel=1e-3)


def test_a_conversation_s_later_turns_do_not_count_in_a_training(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    class Later(Rewarded):
        """Every other prompt has had a turn."""

        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            turn = [{"role": "assistant", "content": "one"}, {"role": "user", "content": "two"}]
            rows = [{**row, "prompt": [*row["prompt"], *turn]} if b % 2 else row for b, row in enumerate(inputs)]
            return super()._generate_and_score_completions(rows)

    settings = config(tiny_pair, "tt_opd", max_steps=1, options={"turns": 1})
    distill(settings, tmp_path / "run", trainer_class=Later)
    (batch,) = batches
    rows = batch["loss_mask"].any(1)
    assert int(rows.sum()) == 2 and torch.equal(batch["loss_mask"][rows], batch["completion_mask"][rows])


class Silent(Kept):
    """Tells the teacher nothing, and rewards all alike."""

    context: Context | None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.context = OutcomeHint(confirm="", correct="")
        return super()._generate_and_score_completions(inputs)

    def _graded(self, rows: Any, batch: Any) -> Tensor:
        return torch.ones(len(rows))


def test_an_empty_hint_and_equal_weights_teach_exactly_nothing(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    distill(config(tiny_pair, "tt_opd", max_steps=1), tmp_path / "run", trainer_class=Silent)
    (batch,) = batches
    assert batch["advantage"][batch["completion_mask"].bool()].abs().max() == 0 and batch["loss"] == 0


def test_turns_must_be_whole() -> None:
    with pytest.raises(BadInputError, match=r"turns to 1.5: it counts something"):
        DistillConfig(method="tt_opd", options={"turns": 1.5})
    published = DistillConfig(method="tt_opd").part_options
    assert (published["alpha"], published["turns"], published["average_rate"]) == (4.0, 3, 0.005)
