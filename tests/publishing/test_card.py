"""Model cards: their metadata, where these come from, and the sections that every card has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import EvalResult, ModelCard

from distillknob.publishing.base_model import base_model
from distillknob.publishing.card import Card
from distillknob.publishing.marks import BEGIN, END
from hub_standin import faults_of, metadata_of
from pairs import Pair


def made(run: Path, base: str, argv: list[str] | None = None, **values: Any) -> str:
    environment = {"argv": argv or ["distillknob", "prune", "a b"], "versions": {"distillknob": "0.1.0", "trl": None}}
    (run / "environment.json").write_text(json.dumps(environment))
    texts: dict[str, Any] = {name: name for name in ("title", "made", "evidence", "use", "misuse")}
    own = {"kind": "pruned-model", "limits": ["one", "two"], "seed": 7, **values}
    return Card(base=base, run=run, **texts, **own).text()


def folder(place: Path, metadata: str) -> str:
    place.mkdir()
    (place / "config.json").write_text("{}")
    (place / "model.safetensors").write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
    (place / "README.md").write_text(f"---\n{metadata}\n---\n# Mine\n")
    return str(place)


def test_a_card_has_every_section_and_metadata_that_a_hub_takes(tiny_pair: Pair, tmp_path: Path) -> None:
    text = made(tmp_path, tiny_pair.teacher, teacher=True)
    assert faults_of(text) == []
    assert metadata_of(text) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["distillknob", "pruned-model"],
    }
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        "## Evidence",
        "## Attacked by extractors",
        "## Limits",
        "## Intended use and misuse",
        "## How to load it",
        "## How it was made",
    ]
    assert text.count(BEGIN) == text.count(END) == 1
    assert "distillknob prune 'a b'" in text and "Seed 7; distillknob 0.1.0." in text
    assert ModelCard(text).data.get("pipeline_tag") == "text-generation"
    assert "Attacked" not in made(tmp_path, tiny_pair.teacher)
    assert "By a Python program, `mine.py`" in made(tmp_path, tiny_pair.teacher, ["mine.py", "--key", "secret"])


def test_an_adapter_is_loaded_by_peft_and_says_so(tmp_path: Path) -> None:
    text = made(tmp_path, folder(tmp_path / "base", "base_model: org/base"), adapter=True, place="me/it")
    metadata = metadata_of(text)
    assert (metadata["library_name"], metadata["base_model_relation"]) == ("peft", "adapter")
    assert 'AutoPeftModelForCausalLM.from_pretrained("me/it")' in text


@pytest.mark.parametrize(
    ("metadata", "ids", "licence"),
    [
        ("base_model: org/base\nlicense: mit", ("org/base",), {"license": "mit"}),
        ("base_model: [org/a, ./here, org/b]", ("org/a", "org/b"), {}),
        ("license: other\nlicense_name: ours\nlicense_link: LICENSE", (), None),
        ("license: [mit, apache-2.0]", (), {}),
        ("license: 'mit", (), {}),
        ("- mit", (), {}),
    ],
)
def test_base_and_licence_are_those_of_the_base_s_own_card(
    tmp_path: Path, metadata: str, ids: tuple[str, ...], licence: dict[str, str] | None
) -> None:
    of = base_model(folder(tmp_path / "base", metadata))
    named = {"license": "other", "license_name": "ours", "license_link": "LICENSE"}
    assert (of.ids, of.licence) == (ids, named if licence is None else licence)


def test_a_model_on_the_hub_is_its_own_base_also_where_its_card_can_t_be_had() -> None:
    assert base_model("org/model").ids == ("org/model",) and base_model("org/model").licence == {}


def test_scores_stand_in_the_metadata_as_the_hub_has_them(tiny_pair: Pair, tmp_path: Path) -> None:
    score = EvalResult("text-generation", "math", "math, held-out problems", "accuracy", 0.75)
    text = made(tmp_path, tiny_pair.teacher, scores=[score])
    assert faults_of(text) == []
    (index,) = metadata_of(text)["model-index"]
    assert index["name"] == tmp_path.name and index["results"][0]["metrics"] == [{"type": "accuracy", "value": 0.75}]
    assert ModelCard(text).data.get("eval_results")[0].dataset_type == "math"
