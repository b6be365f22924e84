"""The offline teacher: what a cache holds, and that a student learns from it what it learns from the teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from distilling import config_of, keep
from distillknob.distillation.cache import files
from distillknob.distillation.cache.config import CacheConfig
from distillknob.distillation.cache.files import TeacherCache
from distillknob.distillation.cache.stage import cache_teacher
from distillknob.distillation.learning_curve import CURVE_PROBLEMS, curve_problems
from distillknob.distillation.losses.stored import padded_rows, stored_divergence
from distillknob.distillation.stage import distill
from distillknob.divergences.fused import fused_divergence
from distillknob.divergences.top_k import topk_of
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.heads import Head, head_of
from distillknob.models.load import load_model
from distillknob.runs.files import atomic_write
from distillknob.runs.run import verify_manifest
from distillknob.tasks import get_task
from pairs import Pair


def cached(pair: Pair, folder: Path, **values: Any) -> Path:
    given = {"teacher": pair.teacher, "problems": 12, "max_completion_length": 12, "top_k": 8, **values}
    return cache_teacher(CacheConfig(**given), folder).path


def test_a_cache_holds_the_teacher_s_top_k(tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "TRACES_A_FILE", 5)
    folder = cached(tiny_pair, tmp_path / "cache")
    found, teacher = TeacherCache(folder), load_model(tiny_pair.teacher)
    assert len(list(folder.glob("topk-*.safetensors"))) == 3 and verify_manifest(folder) == []
    worst = 0.0
    for trace, (ids, logprobs, tail) in zip(found.traces, found.rows(range(12)), strict=True):
        encoded: Any = teacher.tokenizer.apply_chat_template(trace["prompt"], add_generation_prompt=True)
        prompt = encoded["input_ids"]
        whole = torch.tensor([[*prompt, *trace["completion_ids"]]])
        with torch.no_grad():
            plain = teacher.model(whole).logits[0, len(prompt) - 1 : -1]
        top, exact, rest, _ = topk_of(plain, 8)
        assert len(ids) == len(trace["completion_ids"])
        assert torch.equal(ids.sort().values, top.sort().values)
        worst = max(worst, float((logprobs - exact).abs().max()))
        torch.testing.assert_close(tail.double(), rest, atol=0.02, rtol=2e-3)
    assert worst == pytest.approx(found.result["max_logprob_error"], abs=1e-4) and worst < 0.02
    assert found.result["tokens"] == sum(len(trace["completion_ids"]) for trace in found.traces)
    assert found.result["bytes_per_token"] < 6 * 8 + 2 + 60  # the headers of three tiny files are the rest


def test_a_thousand_tokens_take_the_bytes_that_are_told(tiny_pair: Pair, tmp_path: Path) -> None:
    folder = cached(tiny_pair, tmp_path / "cache", problems=100, top_k=32, max_completion_length=None)
    assert TeacherCache(folder).result["bytes_per_token"] < 200


def test_a_stopped_cache_goes_on_at_the_next_file(
    tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "TRACES_A_FILE", 5)
    whole = cached(tiny_pair, tmp_path / "whole")
    write = atomic_write
    written: list[Path] = []

    def stops(path: Path, data: bytes) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(path, data)

    monkeypatch.setattr(files, "atomic_write", stops)
    with pytest.raises(KeyboardInterrupt):
        cached(tiny_pair, tmp_path / "run")
    times = {path: path.stat().st_mtime_ns for path in written}
    monkeypatch.setattr(files, "atomic_write", write)
    settings = CacheConfig(teacher=tiny_pair.teacher, problems=12, max_completion_length=12, top_k=8)
    run = cache_teacher(settings, tmp_path / "run", resume=True)
    assert all(path.stat().st_mtime_ns == then for path, then in times.items())
    for path in sorted(whole.glob("topk-*")):
        assert path.read_bytes() == (run.path / path.name).read_bytes()
    assert run.result == TeacherCache(whole).result


def test_padding_of_the_embeddings_is_no_part_of_what_is_cached(tiny_pair: Pair, tmp_path: Path) -> None:
    """One tokenizer, embeddings of two widths: the student finds what a teacher of its own width would have left."""
    model, tokenizer = load_model(tiny_pair.teacher)
    model.resize_token_embeddings(2048 + 64, mean_resizing=False)
    with torch.no_grad():
        model.get_output_embeddings().weight[2048:] = model.get_output_embeddings().weight[:64]
    model.save_pretrained(tmp_path / "wide")
    tokenizer.save_pretrained(tmp_path / "wide")
    wide = tiny_pair._replace(teacher=str(tmp_path / "wide"))
    plain, padded = (
        TeacherCache(cached(pair, tmp_path / name, traces="gold", top_k=2048))
        for name, pair in (("plain", tiny_pair), ("padded", wide))
    )
    assert plain.width == padded.width == 2048
    for ours, theirs in zip(plain.rows([0, 5]), padded.rows([0, 5]), strict=True):
        assert torch.equal(ours[0].sort().values, theirs[0].sort().values)
        torch.testing.assert_close(ours[1].exp().sum(-1), theirs[1].exp().sum(-1), atol=2e-3, rtol=0)
    run = distill(config_of(tiny_pair, method="gkd", cache=str(tmp_path / "padded")), tmp_path / "run")
    assert run.result["steps"] == 2


@pytest.mark.parametrize("kind", ["jsd", "forward_kl", "reverse_kl"])
def test_a_student_learns_from_the_cache_what_it_learns_from_the_teacher(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]], kind: str
) -> None:
    """With the whole vocabulary kept the losses differ by the rounding alone; with 8 tokens by the tail as well."""
    every = cached(tiny_pair, tmp_path / "every", top_k=2048)
    few = cached(tiny_pair, tmp_path / "few")
    values: dict[str, Any] = {"method": "gkd", "divergence": kind, "lmbda": 0.0}
    for name, given in (("teacher", {}), ("every", {"cache": str(every)}), ("few", {"cache": str(few)})):
        keep(config_of(tiny_pair, **values, **given), tmp_path / name / "run")
    with_teacher, from_every, from_few = (batches[i]["loss"] for i in (0, 2, 4))
    assert from_every == pytest.approx(with_teacher, rel=5e-3)
    assert 0 < from_few <= with_teacher * 1.01  # buckets never tell more
    assert batches[3]["loss"] == pytest.approx(batches[1]["loss"], rel=0.02)  # after a step from these gradients


def test_the_teacher_is_not_needed_beside_its_cache(tiny_pair: Pair, tmp_path: Path) -> None:
    folder = cached(tiny_pair, tmp_path / "cache")
    run = distill(config_of(tiny_pair, method="gkd", cache=str(folder), teacher="/no/such"), tmp_path / "run")
    assert (run.result["steps"], run.result["teacher"]) == (2, tiny_pair.teacher)
    assert f"distilled from {tiny_pair.teacher}" in (run.path / "model" / "README.md").read_text()
    chosen = config_of(tiny_pair, method="gkd", cache=str(folder), tokens="tip", teacher="/no/such")
    assert 0 < distill(chosen, tmp_path / "tip").result["tokens"] < run.result["tokens"]


def test_a_learning_curve_beside_a_cache_is_on_problems_that_the_cache_has_not(
    tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cached(tiny_pair, tmp_path / "cache", tasks=["qa"], seed=5)
    given = config_of(tiny_pair, method="gkd", cache=str(folder), tasks=["math"], problems=3, seed=0, curve_steps=1)
    divided = curve_problems(given, TeacherCache(folder))
    everything = get_task("qa").examples("train", 12 + CURVE_PROBLEMS, seed=5)
    assert divided.held_out == {"qa": everything[12:]} and divided.reason is None

    # A file whose problems the cache holds every one of leaves none, and says so.
    rows = [{"prompt": f"What is {i} + 1?", "reference": str(i + 1)} for i in range(20)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = f"jsonl:{tmp_path / 'sums.jsonl'}"
    whole = cached(tiny_pair, tmp_path / "whole", tasks=[task], problems=1000)
    run = distill(config_of(tiny_pair, method="gkd", cache=str(whole), curve_steps=1), tmp_path / "run")
    assert "the cache holds every train problem of" in run.result["curve"]["reason"]
    assert run.result["curve"]["reason"] in capsys.readouterr().err
    assert not any(name.startswith("eval/") for row in run.metrics() for name in row)


def test_what_a_cache_cannot_serve_is_told(tiny_pair: Pair, tiny_other: str, tmp_path: Path) -> None:
    folder = cached(tiny_pair, tmp_path / "cache")
    with pytest.raises(BadInputError, match="another tokenizer"):
        distill(config_of(tiny_pair, method="gkd", cache=str(folder), student=tiny_other), tmp_path / "run")
    with pytest.raises(BadInputError, match="no run directory"):
        distill(config_of(tiny_pair, method="gkd", cache=str(tmp_path / "none")), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for values, told in (({"top_k": 0}, "top_k=0"), ({"traces": "web"}, "traces='web'"), ({"tasks": []}, "tasks")):
        with pytest.raises(BadInputError, match=told):
            CacheConfig(**values)
    with pytest.raises(BadInputError, match="2048 tokens"):
        cached(tiny_pair, tmp_path / "more", top_k=5000)


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_the_stored_divergence_is_the_fused_one_of_the_same_buckets(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillknob.models.heads._CPU_LOGITS_BYTES", 4 * 50 * 3)  # three rows a block
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(50, 6, generator=generator) for _ in range(2))
    hidden = [torch.randn(rows, 6, generator=generator).requires_grad_() for _ in range(2)]
    hidden[1].data.copy_(hidden[0].data)
    seen = torch.randn(rows, 6, generator=generator)
    ids, logprobs, tail, _ = topk_of(seen @ teacher.T, 9)
    head = Head(student, None, 1.0, None)
    ours = stored_divergence(head, hidden[0], ids, logprobs, tail, kind="jsd", num_items=3)
    theirs = fused_divergence(hidden[1], student, seen, teacher, "jsd", top_k=9, num_items=3)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    if rows:
        ours.backward()
        theirs.backward()
        torch.testing.assert_close(hidden[0].grad, hidden[1].grad, rtol=1e-4, atol=1e-7)


def test_a_cache_s_rows_are_padded(teacher: LanguageModel) -> None:
    rows = [(torch.tensor([[3, 4]]), torch.tensor([[-1.0, -2.0]]), torch.tensor([-3.0]))] * 2
    found = padded_rows(rows, torch.zeros(2, 3, dtype=torch.long))
    assert found["cached_ids"].tolist() == [[[3, 4], [0, 1], [0, 1]]] * 2
    assert found["cached_tail"].tolist() == [[-3.0, 0.0, 0.0]] * 2
    assert head_of(teacher.model).weight_VH.size(0) == 2048
