"""Which engine samples, and what is said where the one that is wanted can't. vLLM is a stand-in here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distillknob.errors import BadInputError
from distillknob.models.engines import choice
from distillknob.models.engines.choice import choose, worth_telling
from pairs import Pair


def chosen(wanted: str, *models: str, trains: bool = False) -> choice.Choice:
    return choose(wanted, models, trains_on_own_samples=trains)


def test_auto_takes_transformers_where_vllm_is_not_installed() -> None:
    assert chosen("auto", "zoo:teacher") == choice.Choice("transformers", "vLLM isn't installed")


def test_vllm_that_is_not_installed_is_refused_with_the_extra() -> None:
    with pytest.raises(BadInputError, match=r"isn't installed: pip install 'distillknob\[vllm\]'"):
        chosen("vllm", "zoo:teacher")


def test_auto_takes_vllm_for_a_model_of_size_that_it_knows(
    vllm: Any, tiny_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = chosen("auto", tiny_pair.teacher)
    assert small.engine == "transformers" and "before a vLLM has started" in small.why
    monkeypatch.setattr(choice, "SMALL", 10)
    large = chosen("auto", tiny_pair.teacher, "http://localhost:1/v1#served")
    assert large.engine == "vllm"
    assert "vLLM 0.31.0" in large.why and tiny_pair.teacher in large.why


def test_a_model_that_vllm_does_not_know_goes_to_transformers(vllm: Any, tiny_pair: Pair, tiny_other: str) -> None:
    assert "doesn't know GPTNeoXForCausalLM" in chosen("auto", tiny_pair.teacher, tiny_other).why
    with pytest.raises(BadInputError, match=r"doesn't know GPTNeoXForCausalLM .*set engine to transformers"):
        chosen("vllm", tiny_other)


def test_a_vllm_without_a_gpu_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_pair: Pair) -> None:
    import vllm_standin

    vllm_standin.install(monkeypatch, tmp_path, gpu=False)
    assert chosen("auto", tiny_pair.teacher).why == "there is no GPU that vLLM works on"
    with pytest.raises(BadInputError, match="no GPU that vLLM works on"):
        chosen("vllm", tiny_pair.teacher)


def test_an_adapter_is_told_how_to_become_a_model(vllm: Any, tmp_path: Path, tiny_pair: Pair) -> None:
    (tmp_path / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{tiny_pair.teacher}"}}')
    with pytest.raises(BadInputError, match=r"is a LoRA adapter: .*--merge-adapter"):
        chosen("vllm", str(tmp_path))


def test_auto_leaves_a_training_on_its_own_samples_repeatable(vllm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "SMALL", 10)
    assert chosen("auto", "zoo:teacher", trains=True).engine == "transformers"
    assert chosen("vllm", "zoo:teacher", trains=True).engine == "vllm"


def test_models_behind_servers_have_their_own() -> None:
    assert chosen("auto", "http://localhost:1/v1#served").why == "no model is sampled from here"


def test_which_engine_samples_is_told_where_another_could(tiny_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, models = choice.Choice("transformers", "vLLM isn't installed"), [tiny_pair.teacher]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not any(worth_telling(ours, wanted, models) for wanted in ("auto", "transformers"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not worth_telling(ours, "auto", models)  # it is sampled from before a vLLM has started
    assert worth_telling(ours, "transformers", models) and worth_telling(choice.Choice("vllm", ""), "auto", models)
    monkeypatch.setattr(choice, "SMALL", 10)
    assert worth_telling(ours, "auto", models)
    assert not worth_telling(ours, "auto", ["http://localhost:1/v1#served"])
