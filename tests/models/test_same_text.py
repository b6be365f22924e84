"""One answer under two models: its tokens, its end, and the prompt before it, each as the reader writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distillknob.diagnosis.gradients import compare_gradients
from distillknob.diagnosis.pair_scores import score_pair
from distillknob.distillation.cache.config import CacheConfig
from distillknob.distillation.cache.stage import cache_teacher
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.distillation.traces import TraceOptions, make_traces
from distillknob.divergences.dense import divergence
from distillknob.divergences.fused import fused_divergence
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.chat import eos_ids, turn_end
from distillknob.models.heads import Head
from distillknob.models.load import load_model
from distillknob.models.same_text import answers_logprob, as_read, spelled
from distillknob.models.scoring import answer_ids, sequence_logprob, token_logprobs
from distillknob.models.spans import score_spans
from distillknob.tasks import get_task
from pairs import Pair

PROMPTS = [[{"role": "user", "content": text}] for text in ("Hi", "Who is Ada, and what does she do all day?")]
SYSTEM = "{{ '<|system|>Be brief.<|end|>' }}"


def templated(checkpoint: str, folder: Path, *, end: str = "<|end|>", system: str = "") -> str:
    """A checkpoint whose chat template ends an assistant's turn by another token, or begins with a system prompt."""
    model, tokenizer = load_model(checkpoint)
    template: Any = tokenizer.chat_template
    before = "message['content'] + '<|end|>' }}{% endgeneration"
    tokenizer.chat_template = system + template.replace(before, before.replace("<|end|>", end))
    tokenizer.eos_token = end
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(end)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def otherwise(tiny_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """The student, whose turns end by `<|system|>` here, and which has a system prompt."""
    folder = tmp_path_factory.mktemp("templates") / "student"
    return load_model(templated(tiny_pair.student, folder, end="<|system|>", system=SYSTEM))


def test_the_end_is_the_reader_s_own(teacher: LanguageModel, otherwise: LanguageModel) -> None:
    ours, theirs = turn_end(teacher.tokenizer), turn_end(otherwise.tokenizer)
    assert ours != theirs and theirs in eos_ids(otherwise)
    rows, finished = [[7, ours], [7, 8], [7, 9], []], [True, False, True, False]
    read = as_read(rows, finished, teacher.tokenizer, otherwise)
    assert read == [[7, theirs], [7, 8], [7, theirs], []]
    assert as_read(rows[:2], finished[:2], teacher.tokenizer, teacher) == rows[:2]
    assert rows[0] == [7, ours]


def test_a_third_end_stays_where_the_reader_knows_it(tiny_pair: Pair, teacher: LanguageModel) -> None:
    reader = load_model(tiny_pair.student)
    assert as_read([[7, 9]], [True], teacher.tokenizer, reader) == [[7, turn_end(reader.tokenizer)]]
    reader.model.generation_config.eos_token_id = [1, 9]
    assert as_read([[7, 9]], [True], teacher.tokenizer, reader) == [[7, 9]]


def test_a_student_knows_its_teacher_s_end_too(tiny_pair: Pair, tmp_path: Path, otherwise: LanguageModel) -> None:
    ours = turn_end(load_model(tiny_pair.teacher).tokenizer)
    config = DistillConfig(
        teacher=tiny_pair.teacher,
        student=str(otherwise.model.name_or_path),
        method="opd_rkl",
        tasks=["qa"],
        problems=4,
        max_steps=1,
        per_device_train_batch_size=4,
        max_completion_length=8,
        gradient_checkpointing=False,
    )
    run = distill(config, tmp_path / "run")
    assert set(eos_ids(load_model(str(run.path / "model")))) == {ours, turn_end(otherwise.tokenizer)}


def test_what_was_drawn_is_scored_and_not_its_text(teacher: LanguageModel, student: LanguageModel) -> None:
    """Special tokens in the middle, a spelling that nobody would use, and letters that spell an end."""
    tokenizer = teacher.tokenizer
    user, end = tokenizer.get_vocab()["<|user|>"], turn_end(tokenizer)
    letters = [tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "yes"]
    ids = [[letters[0], user, letters[1], end], [*letters, end], letters]
    finished, prompts = [True, True, False], [*PROMPTS, PROMPTS[0]]
    scored = answers_logprob(student, prompts, ids, finished, tokenizer)
    plain = torch.stack([row.sum() for row in token_logprobs(student, prompts, ids)])
    torch.testing.assert_close(scored, plain)
    mean = answers_logprob(student, prompts, ids, finished, tokenizer, reduction="mean")
    torch.testing.assert_close(mean, plain / torch.tensor([4.0, 4.0, 3.0]))


def test_another_vocabulary_reads_the_spelling_of_special_tokens(teacher: LanguageModel, other: LanguageModel) -> None:
    tokenizer = teacher.tokenizer
    user, end = tokenizer.get_vocab()["<|user|>"], turn_end(tokenizer)
    letter = tokenizer("y", add_special_tokens=False)["input_ids"][0]
    assert spelled(tokenizer, [[letter, user, end], [letter, user]], [True, False]) == ["y<|user|>"] * 2
    assert spelled(tokenizer, [], []) == []
    scored = answers_logprob(other, PROMPTS[:1], [[letter, user, end]], [True], tokenizer)
    torch.testing.assert_close(scored, sequence_logprob(other, PROMPTS[:1], ["y<|user|>"], [True]))


@pytest.mark.parametrize("text", ["so </s> it is", "[reply]", "a<pad>"])
def test_a_text_that_spells_a_special_token_is_letters(other: LanguageModel, teacher: LanguageModel, text: str) -> None:
    ids = answer_ids(other, [text], [True])[0]
    assert set(other.tokenizer.all_special_ids).isdisjoint(ids[:-1]) and ids[-1] == turn_end(other.tokenizer)
    assert other.tokenizer.decode(ids[:-1]) == text
    spans = score_spans(teacher, other, PROMPTS[:1], [text], [True])
    total = sequence_logprob(other, PROMPTS[:1], [text], [True])
    assert float(spans.student_logprob_N.sum()) == pytest.approx(float(total), abs=1e-4)


def test_a_tokenizer_that_takes_letters_for_a_special_token_is_refused(other: LanguageModel) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.Unigram([("<unk>", 0.0), ("</s>", 0.0), ("a", -1.0), ("<", -9.0)], unk_id=0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = other.tokenizer.chat_template
    broken = LanguageModel(other.model, tokenizer)
    assert answer_ids(broken, ["aa"], [False]) == [[2, 2]]
    with pytest.raises(BadInputError, match="spelling of a special token"):
        answer_ids(broken, ["a</s>"], [False])


def test_traces_end_as_they_were_drawn_and_gold_as_the_student_s_turns(
    teacher: LanguageModel, otherwise: LanguageModel
) -> None:
    ours, theirs = turn_end(teacher.tokenizer), turn_end(otherwise.tokenizer)
    for source, end, other in (("teacher", ours, theirs), ("gold", theirs, ours)):
        rows = make_traces(source, [get_task("qa")], 8, otherwise, teacher, None, TraceOptions(max_new_tokens=60))
        ends = [row["completion_ids"][-1] for row in rows]
        assert end in ends and other not in ends


def test_each_side_reads_the_prompt_by_its_own_template(teacher: LanguageModel, otherwise: LanguageModel) -> None:
    ours, theirs = turn_end(teacher.tokenizer), turn_end(otherwise.tokenizer)
    answers = [[70, 80, 90, theirs], [100, 110]]
    pair = score_pair(
        teacher, otherwise, PROMPTS, answers, [5], task="mixed", policy="on_policy", prompt_A=torch.arange(2)
    )
    taught = token_logprobs(teacher, PROMPTS, [[70, 80, 90, ours], [100, 110]])
    torch.testing.assert_close(pair.teacher_logprob_N, torch.cat(taught), atol=1e-4, rtol=1e-4)
    studied = token_logprobs(otherwise, PROMPTS, answers)
    torch.testing.assert_close(pair.student_logprob_N, torch.cat(studied), atol=1e-4, rtol=1e-4)


def test_a_model_has_no_gradient_towards_itself_under_another_end(tiny_pair: Pair, tmp_path: Path) -> None:
    """The student's copy with its two ends renamed, weights and all, is the same model."""
    student = load_model(tiny_pair.student)
    renamed = load_model(templated(tiny_pair.student, tmp_path / "renamed", end="<|system|>"))
    a, b = turn_end(student.tokenizer), turn_end(renamed.tokenizer)
    head: Any = renamed.model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())  # the input side stays
    with torch.no_grad():
        head.weight[[a, b]] = head.weight[[b, a]]
    found = compare_gradients(student, renamed, "t", PROMPTS[:1], [[[70, 80, b], [90, 100]]])
    assert found.product_BEE.abs().max() < 1e-8


def test_a_teacher_reads_its_own_template_live_and_from_its_cache(tiny_pair: Pair, tmp_path: Path) -> None:
    """Another system prompt and another end of a turn than the student's."""
    own = templated(tiny_pair.teacher, tmp_path / "own", end="<|system|>", system=SYSTEM)
    losses = {}
    for name, teacher in (("plain", tiny_pair.teacher), ("own", own)):
        folder = tmp_path / f"{name}-cache"
        cache_teacher(CacheConfig(teacher=teacher, tasks=["qa"], traces="gold", top_k=2048, problems=8), folder)
        runs: dict[str, dict[str, Any]] = {"live": {}, "cached": {"cache": str(folder)}}
        for kind, values in runs.items():
            config = DistillConfig(
                teacher=teacher,
                student=tiny_pair.student,
                method="gkd",
                traces="gold",
                lmbda=0.0,
                tasks=["qa"],
                problems=8,
                seed=0,
                max_steps=1,
                per_device_train_batch_size=8,
                learning_rate=1e-9,
                gradient_checkpointing=False,
                **values,
            )
            run = distill(config, tmp_path / f"{name}-{kind}")
            losses[name, kind] = next(row["loss"] for row in run.metrics() if row.get("loss") is not None)
    for name in ("plain", "own"):
        assert losses[name, "cached"] == pytest.approx(losses[name, "live"], rel=5e-3)
    assert abs(losses["own", "live"] - losses["plain", "live"]) > 0.01 * losses["plain", "live"]


def test_scores_of_half_precision_are_summed_in_float32() -> None:
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(40, 64), 0.3 * torch.randn(9000, 64), torch.randn(9000)
    short = [x.bfloat16() for x in (hidden, weight, bias)]
    exact = short[0].double() @ short[1].double().t() + short[2].double()
    student = Head(short[1], short[2], 1.0, None)
    logits = student.logits(short[0])
    assert logits.dtype == torch.float32 and (logits - exact).abs().max() < 1e-4
    near = (weight + 0.002 * torch.randn_like(weight)).bfloat16()
    scored = divergence(
        Head(short[1], None, 1.0, None).logits(short[0]), Head(near, None, 1.0, None).logits(short[0]), "forward_kl"
    )
    trained = fused_divergence(short[0], short[1], short[0], near, "forward_kl", reduction="none")
    torch.testing.assert_close(scored, trained, atol=1e-6, rtol=1e-3)
