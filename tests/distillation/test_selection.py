"""Which of a teacher's right samples is the best of n: what the target is used to writing, and what it can follow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from distilling import Parity, config
from distillknob.distillation.selection import SELECTIONS, best_of_n
from distillknob.distillation.stage import distill
from distillknob.distillation.traces import TraceOptions, make_traces
from distillknob.errors import BadInputError, RunFailedError
from distillknob.inputs.preflight import Preflight
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids
from distillknob.models.load import load_model
from distillknob.models.sampling import Sample, Sampling, generate
from distillknob.models.scoring import ScoreRequest
from distillknob.models.sure_tokens import SURE
from distillknob.runs.journal import Journal
from distillknob.stages import STAGES
from distillknob.tasks.base import GeneratedTask
from pairs import Pair
from planted import ASKED, PlantedTask, Table, chain, logits_of, save_bigram, tokenizer_of, words_of


def ways(easy: float, hard: float, *, habit: float) -> dict[str, dict[str, float]]:
    """Answers in an easy way or a hard one (with this habit), each of three steps, at which a model says the way's own
    word with this probability and another one otherwise."""
    table = {ASKED: {"easy": 1 - habit, "hard": habit}}
    table |= chain(*({f"e{i}": easy, f"x{i}": 1 - easy} for i in range(3)), {"right": 1.0}, start="easy")
    return table | chain(*({f"h{i}": hard, f"y{i}": 1 - hard} for i in range(3)), {"right": 1.0}, start="hard")


SPLIT = {"right": ("ri", "ght"), "easy": ("ea", "sy"), "hard": ("ha", "rd")}
TEACHER = ways(0.97, 0.97, habit=0.5)
BY_HABIT = ways(0.9, 0.4, habit=0.999)  # nearly always goes the way that it can't follow


@pytest.fixture(scope="module")
def sharp(tiny_pair: Pair) -> LanguageModel:
    """The tiny teacher, made sure of some of its tokens."""
    loaded = load_model(tiny_pair.teacher)
    body: Any = loaded.model
    body.model.norm.weight.data.mul_(3)
    return loaded


def planted(table: Table, folder: Path, pieces: Mapping[str, Sequence[str]] | None = None) -> LanguageModel:
    words = words_of(TEACHER, table)
    logits_VV = logits_of(table, words, pieces=pieces)
    return load_model(save_bigram(folder, tokenizer_of(words, pieces), logits_VV))


def easy_share(selection: str, teacher: Any, target: LanguageModel, n: int = 8, problems: int = 60) -> float:
    """The share of the traces that are written in the easy way."""
    task = PlantedTask(lambda words: "right" in words)
    options = TraceOptions(n, selection=selection)
    traces = make_traces("teacher_best_of_n", [task], problems, teacher, teacher, target, options)
    assert len(traces) == problems
    return sum(row["completion"].startswith("easy") for row in traces) / problems


@pytest.mark.parametrize("pieces", [None, SPLIT], ids=["one vocabulary", "two vocabularies"])
def test_sure_tokens_choose_what_the_target_can_follow_where_likelihood_chooses_its_habit(
    tmp_path: Path, pieces: Mapping[str, Sequence[str]] | None
) -> None:
    teacher, target = planted(TEACHER, tmp_path / "teacher"), planted(BY_HABIT, tmp_path / "target", pieces)
    assert easy_share("likelihood", teacher, target) == 0.0
    assert easy_share("sure_tokens", teacher, target) == 1.0
    assert easy_share("sure_tokens_soft", teacher, target) == 1.0


def test_an_answer_is_not_preferred_for_having_few_sure_tokens(tmp_path: Path) -> None:
    """The target follows three sure steps as well as the teacher, and can't follow the one of the short way."""
    long = chain({"s0": 1.0}, {"s1": 0.95, "z1": 0.05}, {"s2": 0.95, "z2": 0.05}, {"right": 1.0}, start="long")
    tables = [
        {ASKED: {"long": 0.5, "short": 0.5}, **long, **chain({"t": p, "u": 1 - p}, {"right": 1.0}, start="short")}
        for p in (0.95, 0.85)
    ]
    words = words_of(*tables)
    teacher, target = (
        load_model(save_bigram(tmp_path / str(i), tokenizer_of(words), logits_of(table, words)))
        for i, table in enumerate(tables)
    )
    task = PlantedTask(lambda said: said[1:-1] in (["s0", "s1", "s2"], ["t"]))
    options = TraceOptions(16, selection="sure_tokens")
    traces = make_traces("teacher_best_of_n", [task], 40, teacher, teacher, target, options)
    assert {row["completion"].split()[0] for row in traces} == {"long"}


def values_by_hand(selection: str, teacher: LanguageModel, target: LanguageModel, prompt: Any, sample: Sample) -> float:
    """The log-ratio over the teacher's sure tokens, from each model's own logits, its sign turned."""
    asked = prompt_ids(teacher.tokenizer, [prompt])[0]
    ids = torch.tensor([[*asked, *sample.token_ids]])
    own_T, theirs_T = (
        side.model(ids).logits[0, len(asked) - 1 : -1].log_softmax(-1).gather(1, ids[0, len(asked) :, None])[:, 0]
        for side in (teacher, target)
    )
    weight_T = (own_T.exp() > SURE).float() if selection == "sure_tokens" else own_T.exp() ** 4
    return -float((weight_T * (own_T - theirs_T)).sum())


@pytest.mark.parametrize("selection", ["sure_tokens", "sure_tokens_soft"])
def test_the_best_has_the_smallest_log_ratio_over_the_teacher_s_sure_tokens(
    sharp: LanguageModel, student: LanguageModel, selection: str
) -> None:
    task, teacher = Parity(), sharp
    prompts = [task.messages(example) for example in task.examples("train", 6, seed=0)]
    drawn = generate(teacher, prompts, 5, Sampling(max_new_tokens=task.max_new_tokens, seed=0)).completions
    chosen = best_of_n(selection, teacher, student, prompts, drawn)
    with torch.no_grad():
        for prompt, row, best in zip(prompts, drawn, chosen, strict=True):
            values = [values_by_hand(selection, teacher, student, prompt, sample) for sample in row]
            assert best is not None
            assert values[row.index(best)] == pytest.approx(max(values), abs=1e-4)


def test_many_candidates_are_scored_in_parts_with_the_same_choice(
    sharp: LanguageModel, student: LanguageModel, tmp_path: Path
) -> None:
    task = Parity()
    prompts = [task.messages(example) for example in task.examples("train", 6, seed=0)]
    drawn = generate(sharp, prompts, 16, Sampling(max_new_tokens=12, seed=0)).completions
    drawn = [drawn[0], [], drawn[2], drawn[3][:1], *drawn[4:]]  # one problem has no right one, one a single one
    for selection in SELECTIONS:
        at_once = best_of_n(selection, sharp, student, prompts, drawn)
        journal = Journal(tmp_path / selection)
        in_parts = best_of_n(selection, sharp, student, prompts, drawn, journal, held_at_once=17)
        assert in_parts == at_once
        assert [best is None for best in at_once] == [i == 1 for i in range(6)]
        assert len(list((tmp_path / selection).iterdir())) == 4


def test_a_teacher_that_is_sure_of_nothing_is_told(
    teacher: LanguageModel, sharp: LanguageModel, student: LanguageModel, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = [Parity().messages(example) for example in Parity().examples("train", 4, seed=0)]
    drawn = generate(teacher, prompts, 4, Sampling(max_new_tokens=12, seed=0)).completions
    with pytest.raises(BadInputError, match=r"on 4 of 4 problems .* sure \(above 0.9\) of none of their tokens"):
        best_of_n("sure_tokens", teacher, student, prompts, drawn)
    short = [Sample("", row[0].token_ids[:1], finished=False) for row in drawn]
    assert len({tuple(sample.token_ids) for sample in short}) > 1  # one token each, of which it isn't sure
    own = generate(sharp, prompts, 4, Sampling(max_new_tokens=12, seed=0)).completions  # it is sure of what it draws
    chosen = best_of_n("sure_tokens", sharp, student, prompts, [*own[:3], short])
    assert chosen[3] == short[0] and "on 1 of 4 problems" in capsys.readouterr().err
    assert None not in best_of_n("sure_tokens_soft", teacher, student, prompts, drawn)


def test_a_target_without_numbers_ends_the_selection_by_name(teacher: LanguageModel, student: LanguageModel) -> None:
    class Broken(LanguageModel):
        def score(self, request: ScoreRequest, **options: Any) -> list[torch.Tensor]:
            return [row * math.nan for row in super().score(request, **options)]

    prompts = [Parity().messages(example) for example in Parity().examples("train", 2, seed=0)]
    drawn = generate(teacher, prompts, 2, Sampling(max_new_tokens=12, seed=0)).completions
    for selection in SELECTIONS:
        with pytest.raises(RunFailedError, match="4 of 4 samples have no number by which to choose them"):
            best_of_n(selection, teacher, Broken(*student), prompts, drawn)


# What is told before any work


@pytest.mark.parametrize("method", ["sft_best_of_n_sure", "gkd"])
def test_a_teacher_behind_a_chat_interface_is_refused_by_name(tiny_pair: Pair, tmp_path: Path, method: str) -> None:
    name = "https://host.invalid/v1/chat/completions#hosted"
    values = {"teacher": name, "traces": "teacher_best_of_n", "selection": "sure_tokens"}
    with pytest.raises(BadInputError, match=r"selection=sure_tokens: .*hosted' gives no log-probabilities.*likelihood"):
        distill(config(tiny_pair, method, **values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_target_that_is_the_teacher_is_refused_where_it_would_tell_nothing(tiny_pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="teacher and target are the same model"):
        distill(config(tiny_pair, "sft_best_of_n_sure", target=tiny_pair.teacher), tmp_path / "run")
    STAGES["distill"].check(config(tiny_pair, "sft_best_of_n", target=tiny_pair.teacher), Preflight())
    assert not (tmp_path / "run").exists()


def test_the_selection_is_part_of_what_a_run_is_known_by(
    tiny_pair: Pair, tmp_path: Path, parity: GeneratedTask
) -> None:
    run = distill(config(tiny_pair, "sft_best_of_n_sure", selection="sure_tokens_soft"), tmp_path / "run")
    assert "traces teacher_best_of_n by sure_tokens_soft" in (run.path / "model" / "README.md").read_text()
    with pytest.raises(BadInputError, match="selection was 'sure_tokens_soft', now 'likelihood'"):
        distill(config(tiny_pair, "sft_best_of_n_sure", selection="likelihood"), tmp_path / "run")
    for method, selection in (("sft_best_of_n", "likelihood"), ("sft_best_of_n_sure", "sure_tokens")):
        assert config(tiny_pair, method).objective.selection == selection
    with pytest.raises(BadInputError, match="did you mean 'sure_tokens'"):
        config(tiny_pair, "sft_best_of_n", selection="sure_token")
