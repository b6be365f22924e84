"""Every family of causal language models works, or is refused by name, as docs/reference/families.md says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.errors import BadInputError
from distillknob.evaluation.config import EvaluateConfig
from distillknob.evaluation.stage import evaluate
from distillknob.models import caches
from distillknob.models.architecture import architecture, context_of
from distillknob.models.base import LanguageModel
from distillknob.models.caches import cache_numbers
from distillknob.models.families import REFUSED
from distillknob.models.load import load_model
from distillknob.models.names import zoo_path
from distillknob.models.sampling import Sampling, generate
from distillknob.models.scoring import token_logprobs
from tiny_families import FAMILIES, OWN, documented, outcome, tiny_config

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "families.md").read_text(encoding="utf-8")
TOLD = documented(PAGE)


def test_the_page_lists_every_family_that_transformers_has() -> None:
    assert sorted(TOLD) == sorted(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_works_or_is_refused_as_the_page_says(family: str) -> None:
    """Working means one log-probability for a token: alone, in a batch, behind a shared prompt, and as it was drawn."""
    assert outcome(family).partition(":")[0] == TOLD[family]


@pytest.mark.parametrize("family", ["mamba", "mamba2", "falcon_mamba", "phimoe"])
def test_a_family_that_mixes_types_works_in_bfloat16(family: str) -> None:
    """Mamba's body ends in float32 beside shorter weights, and routers of experts read float32."""
    assert outcome(family, dtype=torch.bfloat16, limit=0.4) == "works"


@pytest.mark.parametrize("family", ["mamba", "gemma4_text", "llama4_text", "deepseek_v3", "falcon_h1", "minimax"])
def test_a_cache_is_as_large_as_the_one_that_the_model_keeps(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a dry run, which has the config alone, and once the model is loaded."""
    monkeypatch.setattr(caches, "_MEASURED", {})
    config = tiny_config(family)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    ids = torch.zeros(1, 12, dtype=torch.long)
    output: Any = model(input_ids=ids, use_cache=True)
    memory = sum(numbers(output.get("past_key_values", output.get("cache_params"))))
    assert cache_numbers(config, 12) == pytest.approx(memory, rel=0.02)
    caches._MEASURED.clear()
    caches.measure_cache(model)
    assert len(caches._MEASURED) == 1 and cache_numbers(config, 12) == pytest.approx(memory, rel=0.02)


def numbers(value: Any) -> list[int]:
    if isinstance(value, torch.Tensor):
        return [value.numel()]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [n for part in value for n in numbers(part)]
    return numbers(vars(value)) if type(value).__module__.startswith("transformers.") else []


def saved(family: str, folder: Path) -> str:
    tokenizer = AutoTokenizer.from_pretrained(zoo_path("teacher"))
    config = tiny_config(family)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", sorted(REFUSED.keys() & OWN.keys() | {"rwkv"}))
def test_a_refused_family_is_refused_by_every_stage_before_any_work(family: str, tmp_path: Path) -> None:
    name = saved(family, tmp_path / family)
    stages = [
        lambda: evaluate(EvaluateConfig(models=[name], problems=2, samples=1, k=1), tmp_path / "evaluate"),
        lambda: distill(
            DistillConfig(student=name, teacher=name, method="sft_gold", max_steps=1), tmp_path / "distill"
        ),
        lambda: architecture(name),
    ]
    for stage in stages:
        with pytest.raises(BadInputError, match=rf"{family}.*model, which can't be used here"):
            stage()
    assert not list(tmp_path.glob("*/metrics.jsonl"))


def test_an_encoder_and_decoder_is_refused_by_name(tmp_path: Path) -> None:
    AutoConfig.for_model("t5", d_model=8, num_layers=1, vocab_size=2080).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(zoo_path("teacher")).save_pretrained(tmp_path)
    for call in (load_model, architecture):
        with pytest.raises(BadInputError, match=r"'t5' model.* an encoder reads the prompt"):
            call(str(tmp_path))


def longrope(long_factor: float) -> Any:
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64}
    rope |= {"short_factor": [1.0] * 8, "long_factor": [long_factor] * 8}
    config = tiny_config("phi3")
    return type(config).from_dict({**config.to_dict(), "original_max_position_embeddings": 64, "rope_parameters": rope})


def test_rows_beyond_longrope_s_first_length_are_refused() -> None:
    config = longrope(4.0)
    tokenizer = AutoTokenizer.from_pretrained(zoo_path("teacher"), padding_side="left")
    language_model = LanguageModel(AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval(), tokenizer)
    prompt = [{"role": "user", "content": "Start with 12 and add 30."}]
    assert context_of(config) == 64
    assert len(token_logprobs(language_model, [prompt], [[5] * 10])[0]) == 10
    with pytest.raises(BadInputError, match="short factors of its LongRoPE"):
        token_logprobs(language_model, [prompt, prompt], [[5] * 10, [5] * 60])
    with pytest.raises(BadInputError, match="short factors of its LongRoPE"):
        generate(language_model, [prompt], 1, Sampling(max_new_tokens=60))


def test_longrope_with_one_set_of_factors_has_its_whole_context() -> None:
    assert context_of(longrope(1.0)) == 256
