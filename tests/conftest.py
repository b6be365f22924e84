"""What several test files share: tiny checkpoints, made once for all workers, and no network anywhere."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pairs import Pair

if TYPE_CHECKING:
    from distillknob.models.base import LanguageModel
    from planted import PlantedTask, Table

# Before any test file imports transformers, TRL or datasets, which read these once.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="1",
    HF_UPDATE_DOWNLOAD_COUNTS="0",
    TOKENIZERS_PARALLELISM="false",
    TRL_EXPERIMENTAL_SILENCE="1",
)
# Whose tests are meant: none of a GPU's (""), those in test_gpu_*.py on a GPU ("1"), or these on a CPU ("cpu").
GPU = os.environ.get("DISTILLKNOB_TEST_GPU", "")
if GPU == "1":
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # without it cuBLAS may sum in another order at every call
else:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

ROOT = Path(__file__).parent.parent


def _make(root: Path) -> None:
    """Four checkpoints of one layer. Teacher and student are trained for seconds: they end their answers, in the
    tasks' words, and are hardly ever right; the third and the reward model have fresh weights."""
    from dataclasses import replace

    import torch
    from transformers import DataCollatorForSeq2Seq

    from distillknob.zoo.build import RECIPES, Phase, tokenized, untrained
    from distillknob.zoo.tokenizers import build_tokenizer

    small: dict[str, Any] = {"layers": 1, "heads": 2}
    size = 32
    recipes = {
        "teacher": replace(RECIPES["teacher"], hidden=32, feed_forward=64, phases=(Phase(30, 1e-2),), **small),
        "student": replace(RECIPES["student"], hidden=16, feed_forward=32, phases=(Phase(20, 1e-2),), **small),
        "other": replace(RECIPES["student-other"], hidden=16, feed_forward=32, phases=(), **small),
    }
    tokenizers = {kind: build_tokenizer(kind, examples_per_task=300) for kind in ("main", "other")}
    for name, recipe in recipes.items():
        tokenizer = tokenizers[recipe.tokens]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            model = untrained(recipe, tokenizer)
        for phase in recipe.phases:
            examples = tokenized(tokenizer, recipe.tokens, phase, recipe.seed)
            rows = [{k: row[k] for k in ("input_ids", "labels")} for row in examples]
            collate = DataCollatorForSeq2Seq(tokenizer)
            optimizer = torch.optim.AdamW(model.parameters(), lr=phase.learning_rate)
            for start in range(0, len(rows), size):
                batch = collate(rows[start : start + size])
                optimizer.zero_grad()
                model(**batch).loss.backward()
                optimizer.step()
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    _make_reward_model(root / "reward", tokenizers["main"])


def _make_reward_model(folder: Path, tokenizer: Any) -> None:
    import torch
    from transformers import Qwen3Config, Qwen3ForSequenceClassification

    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    values: dict[str, Any] = {**size, "num_labels": 1}
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5,  # so that the rewards of different answers differ
        **values,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        Qwen3ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This library's cache, which is never the user's in a test."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["DISTILLKNOB_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny checkpoints `teacher`, `student` and `other`. Don't write into them: copy."""
    from filelock import FileLock

    base = tmp_path_factory.getbasetemp()
    root = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    folder = root / "tiny-checkpoints"
    with FileLock(str(folder) + ".lock"):
        if not folder.exists():
            partial = root / "tiny-checkpoints-partial"
            _make(partial)
            partial.rename(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_pair(checkpoints: Path) -> Pair:
    return Pair(str(checkpoints / "teacher"), str(checkpoints / "student"))


@pytest.fixture(scope="session")
def tiny_other(checkpoints: Path) -> str:
    """Folder of a tiny GPT-NeoX student with the other tokenizer."""
    return str(checkpoints / "other")


@pytest.fixture(scope="session")
def tiny_reward(checkpoints: Path) -> str:
    """Folder of a reward model with fresh weights and the student's tokenizer, whose pad token is not its eos."""
    return str(checkpoints / "reward")


@pytest.fixture(scope="session")
def teacher(tiny_pair: Pair) -> LanguageModel:
    """The loaded teacher. Shared: a test that changes a model loads its own."""
    from distillknob.models.load import load_model

    return load_model(tiny_pair.teacher)


@pytest.fixture(scope="session")
def student(tiny_pair: Pair) -> LanguageModel:
    from distillknob.models.load import load_model

    return load_model(tiny_pair.student)


@pytest.fixture(scope="session")
def other(tiny_other: str) -> LanguageModel:
    from distillknob.models.load import load_model

    return load_model(tiny_other)


@pytest.fixture
def diagnose_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Write a pair of tables as checkpoints, diagnose it, and return the result with its findings by name."""
    from distillknob import tasks
    from distillknob.diagnosis.config import DiagnoseConfig
    from distillknob.diagnosis.stage import diagnose
    from distillknob.tasks import register_task
    from planted import PlantedTask, logits_of, save_bigram, tokenizer_of, words_of

    monkeypatch.setattr(tasks, "_REGISTRY", dict(tasks._REGISTRY))

    def look(
        teacher: Table, student: Table, task: PlantedTask | None = None, *, mild: float = 0.0, **values: Any
    ) -> dict[str, Any]:
        task = task or PlantedTask()
        register_task(task.name, lambda: task)
        words = words_of(teacher, student)
        tokenizer = tokenizer_of(words)
        config = DiagnoseConfig(
            teacher=save_bigram(tmp_path / "teacher", tokenizer, logits_of(teacher, words)),
            student=save_bigram(tmp_path / "student", tokenizer, logits_of(student, words, noise=mild, seed=1)),
            tasks=[task.name],
            **{"problems": 120, "gradient_problems": 0, "candidates": 2, **values},
        )
        result: dict[str, Any] = diagnose(config, tmp_path / "run").result
        return {**result, **{row["name"]: row for row in result["findings"]}}

    return look


_modules_frozen = 0


def pytest_runtest_setup() -> None:
    """Lay what was imported aside for good: each training collects garbage, among millions of objects of libraries."""
    global _modules_frozen
    if len(sys.modules) > _modules_frozen + 100:
        gc.collect()
        gc.freeze()
        _modules_frozen = len(sys.modules)


@pytest.fixture(scope="session")
def gpu() -> str:
    """The device of the tests that ask what a GPU does: "cuda", or "cpu" where they are only tried. Skips them where
    neither is meant."""
    if GPU not in ("1", "cpu"):
        pytest.skip("a GPU's: DISTILLKNOB_TEST_GPU=1 runs it on one (CONTRIBUTING.md)")
    import torch

    if GPU == "1" and not torch.cuda.is_available():
        pytest.fail("DISTILLKNOB_TEST_GPU=1, but torch sees no GPU: leave it out, or set it to cpu to try the tests")
    return "cuda" if GPU == "1" else "cpu"


@pytest.fixture(autouse=True)
def _random_state_stays() -> Iterator[None]:
    """Trainers seed every global generator: put them back, so that no test depends on which ran before it."""
    import random

    state = random.getstate()
    torch = sys.modules.get("torch")
    torch_state = torch.get_rng_state() if torch else None
    yield
    random.setstate(state)
    if torch and torch_state is not None:
        torch.set_rng_state(torch_state)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The module `vllm_standin`, whose vLLM is installed here and has a GPU to work on."""
    import vllm_standin

    vllm_standin.install(monkeypatch, tmp_path_factory.mktemp("site"))
    return vllm_standin
