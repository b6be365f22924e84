"""Where the texts of a step come from: the adaptive share by hand, its buffer, and trainings that use all sources."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distilling import config, keep
from distillknob.distillation.check import check
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.replay import REPLAY, Replay
from distillknob.distillation.sources import FRESH, REPLAYED, STORED, AdaptiveShare, Share, draw_of, source_of
from distillknob.distillation.stage import distill
from distillknob.errors import BadInputError
from distillknob.inputs.preflight import Preflight
from distillknob.methods import METHODS
from distillknob.models.load import load_model
from distillknob.runs.run import Run
from interrupted import Stopped, stopped_in, weights
from pairs import Pair

# The schedule


def shares(start: float, losses: Sequence[float], rise: float = 0.1, tolerance: float = 0.1) -> list[Share]:
    """The share after each of the validation losses."""
    series = [Share(start)]
    for loss in losses:
        series.append(series[-1].after(loss, rise=rise, tolerance=tolerance))
    return series[1:]


def test_the_share_rises_where_the_validation_loss_did_and_only_then_is_another_compared_with() -> None:
    losses = [2.0, 1.5, 2.0625, 2.125, 2.2, 2.25, 1.0, 2.5]
    series = shares(0.0, losses, tolerance=0.125)
    assert [one.share for one in series] == [0.0, 0.0, 0.0, 0.1, 0.1, 0.2, 0.2, 0.3]
    # 1.5 is lower and isn't stored; 2.125 is 2 + ε to the last bit; 2.2 is too near to 2.125.
    assert [one.loss for one in series] == [2.0, 2.0, 2.0, 2.125, 2.125, 2.25, 2.25, 2.5]


def test_the_share_rises_up_to_1() -> None:
    series = shares(0.75, [float(n) for n in range(6)])
    assert [one.share for one in series] == [0.75, 0.85, 0.95, 1.0, 1.0, 1.0]
    assert shares(0.0, [float(n) for n in range(11)])[-1].share == 1.0


@pytest.mark.parametrize(
    ("draw", "share", "progress", "full", "source"),
    [
        (0.0, 0.0, 0.0, False, STORED),
        (0.0, 0.0, 0.0, True, STORED),
        (0.39, 0.4, 0.0, True, FRESH),
        (0.19, 0.4, 0.5, True, FRESH),
        (0.2, 0.4, 0.5, True, REPLAYED),
        (0.39, 0.4, 0.5, True, REPLAYED),
        (0.39, 0.4, 0.5, False, FRESH),
        (0.4, 0.4, 0.5, False, STORED),
        (0.4, 0.4, 0.5, True, STORED),
        (0.0, 1.0, 1.0, True, REPLAYED),
        (0.999, 1.0, 0.0, True, FRESH),
    ],
)
def test_a_step_has_the_source_of_its_draw(draw: float, share: float, progress: float, full: bool, source: str) -> None:
    assert source_of(draw, share, progress, full=full) == source


def test_the_published_numbers_are_the_defaults_and_few_traces_hold_few_back() -> None:
    mix = DistillConfig(method="distillm").made_sources
    assert mix is not None
    published = (mix.own_share, mix.own_share_rise, mix.own_share_tolerance, mix.replay_capacity)
    assert published == (0.0, 0.1, 0.1, 1000)
    assert [mix.held_back(traces) for traces in (8, 10, 25, 319, 320, 5000)] == [1, 1, 2, 31, 32, 32]


# The buffer


def row(number: int) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": f"{number} \ud800"}], "completion_ids": [0], "task": "qa"}


def test_the_oldest_samples_leave_a_full_buffer() -> None:
    replay = Replay(AdaptiveShare(replay_capacity=3))
    replay.keep([row(1), row(2)], [[11], [12, 1]])
    assert not replay.full
    replay.keep([row(3), row(4)], [[13], [14]])
    assert replay.full and [one["completion_ids"] for one in replay.rows] == [[12, 1], [13], [14]]
    assert replay.rows[0] == {**row(2), "completion_ids": [12, 1]}
    drawn = replay.drawn(3, "0/7")
    assert sorted(one["completion_ids"][0] for one in drawn) == [12, 13, 14] and replay.drawn(3, "0/7") == drawn


def test_processes_draw_from_their_own_buffers_by_draws_of_their_own() -> None:
    one, two = (Replay(AdaptiveShare(), process=process, processes=2) for process in (0, 1))
    for replay in (one, two):
        replay.keep([row(n) for n in range(50)], [[n] for n in range(50)])
    assert one.drawn(8, "0/7") != two.drawn(8, "0/7") and one.drawn(8, "0/7") != one.drawn(8, "0/8")


def test_the_state_lies_beside_a_checkpoint(tmp_path: Path) -> None:
    replay = Replay(AdaptiveShare(own_share=0.3))
    replay.measured(1 / 3)
    replay.measured(2.0)
    replay.keep([row(1), row(2)], [[11], [12, 1]])
    (tmp_path / "checkpoint-3").mkdir()
    state = SimpleNamespace(is_world_process_zero=True, global_step=3)
    replay.on_save(SimpleNamespace(output_dir=tmp_path), state, None)
    other = Replay(AdaptiveShare(own_share=0.3))
    other.restore(tmp_path / "checkpoint-3")
    assert other.share == replay.share == Share(0.4, 2.0) and other.rows == replay.rows
    with pytest.raises(BadInputError, match=f"has no {REPLAY}"):
        other.restore(tmp_path)
    with pytest.raises(BadInputError, match="samples of 1 processes, and here are 2"):
        Replay(AdaptiveShare(), process=1, processes=2).restore(tmp_path / "checkpoint-3")


# Trainings

VALUES: dict[str, Any] = {
    "method": "distillm",
    "problems": 20,
    "max_steps": 8,
    "seed": 11,
    "problem_seed": 0,
    "learning_rate": 0.3,  # so high that the validation loss rises
    "max_completion_length": 8,
    "options": {"own_share": 0.6, "replay_capacity": 8, "validation_every": 2, "own_share_tolerance": 0.01},
}


def logged(run: Run, name: str) -> list[float]:
    return [line[name] for line in run.metrics() if name in line]


def texts(batch: dict[str, Any]) -> list[tuple[int, ...]]:
    """The tokens of each row, prompt and completion."""
    columns = zip(
        *(batch[f"{part}_{what}"] for part in ("prompt", "completion") for what in ("ids", "mask")), strict=True
    )
    return [(*p[pm.bool()].tolist(), *c[cm.bool()].tolist()) for p, pm, c, cm in columns]


def test_steps_are_fresh_replayed_and_stored_as_the_schedule_says(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    run = keep(config(tiny_pair, **VALUES), tmp_path / "run")
    losses, own = logged(run, "validation_loss"), logged(run, "own_share")
    series = shares(0.6, losses, tolerance=0.01)
    assert len(losses) == 4 and own == [series[step // 2].share for step in range(8)]
    assert max(own) > 0.6  # it has risen
    replayed, fresh = logged(run, "replayed"), logged(run, "on_policy")
    sources = [REPLAYED if r else FRESH if f else STORED for r, f in zip(replayed, fresh, strict=True)]
    written = 0
    for step, source in enumerate(sources):
        assert source == source_of(draw_of(11, step), own[step], step / 8, full=written >= 8), step
        written += 4 * (source == FRESH)
    assert {*sources} == {FRESH, REPLAYED, STORED}
    ids = [texts(batch) for batch in batches]
    student = load_model(tiny_pair.student)
    traces = {(*prompt_of(student, one), *one["completion_ids"]) for one in run.samples()}
    kept: list[tuple[int, ...]] = []
    for step, source in enumerate(sources):
        if source == FRESH:
            kept = [*kept, *ids[step]][-8:]
            assert not {*ids[step]} <= traces
        else:
            assert {*ids[step]} <= (traces if source == STORED else {*kept})


def prompt_of(student: Any, row: dict[str, Any]) -> list[int]:
    text = student.tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
    return list(student.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_the_validation_loss_is_that_of_traces_that_no_step_reads(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    more = {"problems": 22, "max_steps": 10, "learning_rate": 1e-9, "options": {"validation_every": 5}}  # two epochs
    values = {**VALUES, **more}
    run = keep(config(tiny_pair, **values), tmp_path / "run")
    student, read = load_model(tiny_pair.student), {one for batch in batches for one in texts(batch)}
    held_back = [(prompt_of(student, one), list(one["completion_ids"])) for one in run.samples()]
    held_back = [(prompt, ids) for prompt, ids in held_back if (*prompt, *ids) not in read]
    assert len(held_back) == 2
    total = 0.0
    for prompt, ids in held_back:
        with torch.no_grad():
            logits = student.model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        total -= float(logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None]).sum())
    plain = total / sum(len(ids) for _, ids in held_back)
    assert logged(run, "validation_loss") == pytest.approx([plain, plain], rel=1e-4)
    assert logged(run, "own_share") == [0.0] * 10 and logged(run, "on_policy") == [0.0] * 10


def test_measuring_changes_no_step(tiny_pair: Pair, tmp_path: Path) -> None:
    runs = [
        distill(config(tiny_pair, **{**VALUES, "max_steps": 2, "options": options}), tmp_path / str(n))
        for n, options in enumerate([{"validation_every": 1}, {"validation_every": 100}])
    ]
    ours, theirs = (weights(run.path) for run in runs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [len(logged(run, "validation_loss")) for run in runs] == [2, 1]


def test_a_resumed_run_is_the_unbroken_one(tiny_pair: Pair, tmp_path: Path) -> None:
    """It is stopped behind a checkpoint whose buffer is full and whose share has risen, before steps that replay."""
    values = {**VALUES, "save_steps": 4, "divergence": "skew_reverse_kl"}
    whole = distill(config(tiny_pair, **values), tmp_path / "whole")
    with pytest.raises(Stopped):
        distill(config(tiny_pair, **values), tmp_path / "killed", trainer_class=stopped_in(7))
    state = json.loads((tmp_path / "killed" / "checkpoints" / "checkpoint-4" / REPLAY).read_text())
    assert [len(buffer) for buffer in state["buffers"]] == [8] and state["share"] > 0.6
    resumed = distill(config(tiny_pair, **values), tmp_path / "killed", resume=True)
    assert sum(logged(resumed, "replayed")[4:]) >= 2
    ours, theirs = weights(resumed.path), weights(whole.path)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    states = [(run.path / "checkpoints" / "checkpoint-8" / REPLAY).read_bytes() for run in (whole, resumed)]
    assert states[0] == states[1]
    for name in ("own_share", "validation_loss", "replayed"):
        assert logged(resumed, name) == logged(whole, name)


# What is refused


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"traces": "none"}, "trains on the student's own samples alone"),
        ({"lmbda": 1.0}, "sources=adaptive with lmbda=1"),
        ({"lmbda": 0.0}, "sources=adaptive with lmbda=0"),
        ({"cache": "somewhere"}, "leave cache out"),
        ({"num_generations": 2}, "num_generations=2"),
        ({"context": "sibling"}, "context=sibling"),
        ({"edit": "confidence"}, "edit=confidence"),
        ({"query_weights": "robust"}, "query_weights=robust"),
        ({"dp_noise": 1.0, "gradient_accumulation_steps": 1}, "sources=adaptive with private steps"),
        ({"method": "opd_rkl", "sources": "adaptive"}, "sources=adaptive with lmbda=1 and traces=none"),
        ({"method": "sft", "sources": "adaptive"}, "sources=adaptive with lmbda=0"),
        ({"sources": "adaptiv"}, "did you mean 'adaptive'"),
        ({"options": {"replay_capacity": 2}}, "a step of each process reads 16 texts"),
        ({"options": {"replay_capacity": 20.5}}, "give a whole number"),
        ({"options": {"own_share": 1.5}}, "must lie between 0 and 1"),
        ({"sources": "fixed", "options": {"own_share": 0.5}}, "this method doesn't have"),
    ],
)
def test_what_makes_no_sense_with_an_adaptive_share_is_refused(values: dict[str, Any], told: str) -> None:
    sizes = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
    with pytest.raises(BadInputError, match=told):
        DistillConfig(**{"method": "distillm", **sizes, **values})


def test_other_methods_may_mix_alike_and_distillm_by_a_fixed_share() -> None:
    assert DistillConfig(method="gkd").made_sources is None
    assert DistillConfig(method="gkd", sources="adaptive").made_sources == AdaptiveShare()
    reverse = DistillConfig(method="distillm", divergence="skew_reverse_kl").objective
    assert reverse.loss == METHODS["skew_rkl"].loss and reverse.sources == "adaptive"
    assert DistillConfig(method="distillm", sources="fixed").made_sources is None
    assert "sources adaptive" in METHODS["distillm"].parts and "lmbda" not in METHODS["distillm"].parts


@pytest.mark.parametrize(
    ("values", "remarked"),
    [
        (
            {"max_steps": 9, "options": {"replay_capacity": 36}},
            "replay_capacity=36: in 9 steps a process writes at most 36",
        ),
        ({"max_steps": 10, "options": {"replay_capacity": 36}}, None),
        ({"max_steps": -1, "num_train_epochs": 2}, "in 18 steps a process writes at most 72"),
        ({"max_steps": 10, "options": {"replay_capacity": 8}, "lmbda": 0.3}, "lmbda=0.3 does nothing"),
    ],
)
def test_a_buffer_that_is_never_full_is_remarked_on(
    tiny_pair: Pair, values: dict[str, Any], remarked: str | None
) -> None:
    look = Preflight(fetch=False)
    check(config(tiny_pair, "distillm", problems=40, **values), look)
    assert [remarked in line for line in look.remarks if remarked] == ([] if remarked is None else [True])
    assert bool(look.remarks) is (remarked is not None)


def test_too_few_traces_beside_those_held_back_are_refused(tiny_pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="3 problems to train on beside 1 held back"):
        distill(config(tiny_pair, "distillm", problems=4), tmp_path / "run")
