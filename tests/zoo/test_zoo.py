"""Building the embedded checkpoints from nothing, interrupted and checked, on recipes of a few steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from distillknob import zoo
from distillknob.errors import BadInputError
from distillknob.models.load import load_model
from distillknob.tasks import get_task
from distillknob.zoo import build, build_zoo, verify_zoo
from distillknob.zoo.build import Phase, Recipe, deepened, pretraining_examples, train, untrained
from distillknob.zoo.tokenizers import build_tokenizer

PHASES = (Phase(4, 1e-3, textbook=0.5), Phase(3, 1e-3, mixture={"math": 0.5, "qa": 0.3, "instruct": 0.2}))
RECIPES = {
    "first": Recipe("qwen3", 16, 1, 1, 32, "main", 1, PHASES),
    "second": Recipe("gpt_neox", 16, 1, 1, 32, "other", 2, PHASES[:1]),
}


@pytest.fixture(autouse=True)
def tokenizer_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], PreTrainedTokenizerFast]:
    """Small recipes, and the tokenizer of a kind, made of few examples."""
    made: dict[str, PreTrainedTokenizerFast] = {}

    def tokenizer(kind: str) -> PreTrainedTokenizerFast:
        return made.setdefault(kind, build_tokenizer(kind, examples_per_task=200))

    monkeypatch.setattr(build, "RECIPES", RECIPES)
    monkeypatch.setattr(build, "build_tokenizer", tokenizer)
    monkeypatch.setattr(build, "SAVE_STEPS", 2)
    monkeypatch.setattr(zoo, "CHECKED_PROBLEMS", 3)
    return tokenizer


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_model(str(folder)).model.state_dict()
    return found


def test_an_interrupted_build_ends_with_the_weights_of_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(RECIPES["first"], tmp_path / "unbroken", progress=False)
    whole = build.train_phase
    calls = 0

    def killed_in_the_second_phase(*args: object, **kwargs: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        whole(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(build, "train_phase", killed_in_the_second_phase)
    with pytest.raises(KeyboardInterrupt):
        train(RECIPES["first"], tmp_path / "broken", progress=False)
    assert not (tmp_path / "broken").exists()
    monkeypatch.setattr(build, "train_phase", whole)
    train(RECIPES["first"], tmp_path / "broken", progress=False)
    assert not (tmp_path / "broken-partial").exists()
    unbroken, broken = weights(tmp_path / "unbroken"), weights(tmp_path / "broken")
    assert all(torch.equal(value, broken[name]) for name, value in unbroken.items())


def test_a_phase_goes_on_from_its_last_saved_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(RECIPES["first"], tmp_path / "unbroken", progress=False)
    from distillknob.zoo.trainer import CompletionTrainer

    step = CompletionTrainer.compute_loss

    def killed_at_step_three(self: CompletionTrainer, *args: object, **kwargs: object) -> object:
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(CompletionTrainer, "compute_loss", killed_at_step_three)
    with pytest.raises(KeyboardInterrupt):
        train(RECIPES["first"], tmp_path / "broken", progress=False)
    assert list((tmp_path / "broken-partial").rglob("checkpoint-2"))
    monkeypatch.setattr(CompletionTrainer, "compute_loss", step)
    train(RECIPES["first"], tmp_path / "broken", progress=False)
    unbroken, broken = weights(tmp_path / "unbroken"), weights(tmp_path / "broken")
    assert all(torch.allclose(value, broken[name], atol=1e-6) for name, value in unbroken.items())


def test_what_was_built_verifies_and_what_was_changed_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = build_zoo(tmp_path / "zoo")
    assert [row["name"] for row in rows] == list(RECIPES)
    monkeypatch.setattr(zoo, "checkpoints", lambda: tmp_path / "zoo")
    assert [row["name"] for row in zoo.list_zoo()] == list(RECIPES)
    assert all(row["holds"] and row["hash"] == "same" for row in verify_zoo())
    file = tmp_path / "zoo" / "first" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert {row["name"]: row["holds"] for row in verify_zoo()} == {"first": False, "second": True}


def test_a_style_can_be_practised_more_than_the_others() -> None:
    task = get_task("math")

    def share(phase: Phase) -> float:
        styles = [task.style(solution) for _, solution in pretraining_examples(phase, seed=3)]
        return styles.count("two_at_a_time") / len(styles)

    assert share(Phase(20, 1e-3, mixture={"math": 1.0})) == pytest.approx(0.5, abs=0.05)
    practised = Phase(20, 1e-3, mixture={"math": 1.0}, practice={"two_at_a_time": 3})
    assert share(practised) == pytest.approx(0.75, abs=0.05)


def test_a_model_is_deepened_without_changing_what_it_computes(
    tokenizer_of: Callable[[str], PreTrainedTokenizerFast],
) -> None:
    tokenizer = tokenizer_of("main")
    shallow, deep = (untrained(Recipe("qwen3", 16, layers, 1, 32, "main", 1, ()), tokenizer) for layers in (1, 3))
    ids = torch.tensor([[5, 6, 7]])
    before = shallow(ids).logits
    assert not torch.equal(deep(ids).logits, before)
    torch.testing.assert_close(deepened(shallow, deep)(ids).logits, before)
    assert deep.config.num_hidden_layers == 3


def test_a_phase_can_deepen_the_model(tmp_path: Path) -> None:
    phases = (PHASES[0], Phase(2, 1e-3, layers=2))
    train(Recipe("qwen3", 16, 1, 1, 32, "main", 1, phases), tmp_path / "deep", progress=False)
    deep = load_model(str(tmp_path / "deep")).model
    assert deep.config.num_hidden_layers == 2
    assert deep.get_parameter("model.layers.1.mlp.down_proj.weight").abs().max() > 0


def test_a_sharpened_checkpoint_has_larger_logits_and_nothing_else(tmp_path: Path) -> None:
    plain, sharp = (
        Recipe("qwen3", 16, 1, 1, 32, "main", 1, PHASES[:1]),
        Recipe("qwen3", 16, 1, 1, 32, "main", 1, PHASES[:1], 1.5),
    )
    ids = torch.tensor([[5, 6, 7]])
    logits = []
    for name, recipe in (("plain", plain), ("sharp", sharp)):
        train(recipe, tmp_path / name, progress=False)
        logits.append(load_model(str(tmp_path / name)).model(ids).logits)
    torch.testing.assert_close(logits[1], 1.5 * logits[0])


def test_only_known_checkpoints_are_built(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no embedded checkpoint named 'frist'.*first"):
        build_zoo(tmp_path / "zoo", ["frist"])
    assert not (tmp_path / "zoo").exists()


def test_another_seed_gives_other_weights_and_does_not_mix_with_the_first(tmp_path: Path) -> None:
    for seed in (0, 1):
        build_zoo(tmp_path / str(seed), ["first"], seed=seed)
    train(RECIPES["first"], tmp_path / "shipped", progress=False)
    shipped, first, second = (
        weights(folder) for folder in (tmp_path / "shipped", tmp_path / "0/first", tmp_path / "1/first")
    )
    assert all(torch.equal(value, first[name]) for name, value in shipped.items())
    assert any(not torch.equal(value, second[name]) for name, value in first.items())
    with pytest.raises(BadInputError, match="holds checkpoints of seed 1, not 0: give another --output"):
        build_zoo(tmp_path / "1", ["second"])
    assert not (tmp_path / "1" / "second").exists()
    with pytest.raises(BadInputError, match="seed is -1"):
        build_zoo(tmp_path / "negative", seed=-1)
