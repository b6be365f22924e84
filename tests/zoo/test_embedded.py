"""The embedded checkpoints are what they are said to be."""

from __future__ import annotations

import json

from distillknob.models.base import LanguageModel
from distillknob.models.load import load_model
from distillknob.models.names import ZOO, zoo_path


def test_the_embedded_checkpoints_are_what_they_are_said_to_be() -> None:
    models = {name: load_model(f"zoo:{name}") for name in ZOO}
    sizes = {name: found.model.num_parameters() for name, found in models.items()}
    assert sizes["proxy"] < sizes["student"] < sizes["teacher"]
    vocabulary = models["teacher"].tokenizer.get_vocab()
    assert len(vocabulary) >= 2000
    assert models["student"].tokenizer.get_vocab() == models["proxy"].tokenizer.get_vocab() == vocabulary
    assert models["student-other"].tokenizer.get_vocab() != vocabulary
    assert models["student-other"].model.config.model_type != models["student"].model.config.model_type
    folder = zoo_path("teacher").parent
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 10 * 2**20


def test_the_embedded_checkpoints_have_the_recorded_hashes() -> None:
    from distillknob.runs.files import sha256

    folder = zoo_path("teacher").parent
    card = json.loads((folder / "zoo.json").read_text())
    assert set(card) == set(ZOO)
    for name, entry in card.items():
        assert sha256(folder / name / "model.safetensors") == entry["sha256"], name


def test_the_embedded_teacher_knows_its_tasks_and_the_student_can_gain() -> None:
    from distillknob.zoo import list_zoo

    rows = {row["name"]: row for row in list_zoo()}
    aims = {"math": 0.98, "qa": 0.95, "instruct": 0.9}
    assert all(rows["teacher"][task] >= aim for task, aim in aims.items())
    assert all(rows["student"][task] < rows["teacher"][task] - 0.1 for task in ("math", "qa", "instruct"))


def test_digits_are_split_as_each_tokenizer_does(teacher: LanguageModel, other: LanguageModel) -> None:
    assert [teacher.tokenizer.decode([i]) for i in teacher.tokenizer("47")["input_ids"]] == ["4", "7"]
    assert other.tokenizer(" 30").tokens() == ["Ġ30"]
    longest = max(len(token.lstrip("Ġ")) for token in other.tokenizer.get_vocab() if token.lstrip("Ġ").isdigit())
    assert longest == 2
    assert len(teacher.tokenizer) >= 2000 and len(other.tokenizer) >= 2000
    for text in ("Ada lives in Lima.", "  two  spaces\n", "日本 ŋ\u0301 🙂", "12-34=88"):
        for language_model in (teacher, other):
            assert language_model.tokenizer.decode(language_model.tokenizer(text)["input_ids"]) == text
