"""Methods of two phases: the student is trained by one method, and goes on by the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distilling import config, keep, weights
from distillknob.cli.main import main
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.distillation.traces import part_of
from distillknob.distillation.trainer import DistillTrainer
from distillknob.errors import BadInputError
from distillknob.runs.run import load_run, verify_manifest
from distillknob.tasks.base import GeneratedTask
from interrupted import Stopped, stopped_in
from pairs import Pair

SHORT = {"problems": 16, "max_completion_length": 8}


def prompts(run: Any) -> set[str]:
    return {row["prompt"][-1]["content"] for row in run.samples()}


def test_parts_that_meet_are_disjoint_and_leave_none_out() -> None:
    for count in range(1, 12):
        for share in (0.1, 0.25, 0.5, 0.9):
            rows = range(count)
            assert [*part_of(rows, (0.0, share)), *part_of(rows, (share, 1.0))] == list(rows)


def test_the_second_phase_begins_with_the_first_ones_student_and_has_other_problems(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    values = config(tiny_pair, "opd_after_sft", max_steps=5, first_share=0.4, **SHORT)
    run = keep(values, tmp_path / "run")
    before = load_run(tmp_path / "run" / "first")
    assert [row["method"] for row in run.result["phases"]] == ["sft", "opd_after_sft"]
    assert [row["steps"] for row in run.result["phases"]] == [2, 3] and run.result["steps"] == 5
    assert run.result["tokens"] == sum(row["tokens"] for row in run.result["phases"]) > before.result["tokens"] > 0
    assert before.result["steps"] == 2 and before.config["method"] == "sft"
    assert len(prompts(before)) == 6 and len(prompts(run)) == 10 and not prompts(before) & prompts(run)
    assert run.result["student"] == tiny_pair.student and not verify_manifest(run.path)
    alone = distill(
        config(
            tiny_pair, "opd_rkl", student=str(before.path / "model"), max_steps=3, problems_part=[0.4, 1.0], **SHORT
        ),
        tmp_path / "alone",
    )
    whole, other = weights(run.path / "model"), weights(alone.path / "model")
    assert all(torch.equal(whole[name], other[name]) for name in whole)
    start = weights(tiny_pair.student)
    assert any(not torch.equal(weights(before.path / "model")[name], start[name]) for name in start)


def test_switched_off_it_is_the_method_without_a_phase_before(tiny_pair: Pair, tmp_path: Path) -> None:
    off = distill(config(tiny_pair, "opd_after_sft", first="none", **SHORT), tmp_path / "off")
    plain = distill(config(tiny_pair, "opd_rkl", **SHORT), tmp_path / "plain")
    ours, theirs = weights(off.path / "model"), weights(plain.path / "model")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not (off.path / "first").exists() and "phases" not in off.result


def rates(run: Any) -> list[float]:
    return [row["learning_rate"] for row in run.metrics() if "learning_rate" in row]


def test_the_learning_rate_after_the_first_phase_is_the_methods_share_of_that_before(
    tiny_pair: Pair, tmp_path: Path, parity: GeneratedTask
) -> None:
    constant = {"learning_rate": 1e-2, "lr_scheduler_type": "constant", "max_steps": 4, **SHORT}
    run = distill(
        config(tiny_pair, "redi", **{**constant, "problems": 64, "max_completion_length": 12}), tmp_path / "run"
    )
    assert rates(load_run(run.path / "first")) == [1e-2] * 2
    assert rates(run) == pytest.approx([2e-4] * 2)  # 1e-6 after 5e-5, as the paper has it
    assert [row["learning_rate"] for row in run.result["phases"]] == pytest.approx([1e-2, 2e-4])
    plain = distill(config(tiny_pair, "opd_after_sft", after_rate=0.5, **constant), tmp_path / "plain")
    assert rates(load_run(plain.path / "first")) == [1e-2] * 2 and rates(plain) == pytest.approx([5e-3] * 2)


def test_any_method_can_be_put_before_another(tiny_pair: Pair, tmp_path: Path) -> None:
    run = distill(config(tiny_pair, "gkd", first="sft_gold", lmbda=0.0, beta=0.9, **SHORT), tmp_path / "run")
    before = load_run(run.path / "first")
    assert before.config["method"] == "sft_gold" and before.config["beta"] == 0.5
    assert run.config["first"] == "sft_gold" and run.config["beta"] == 0.9


@pytest.mark.parametrize("step", [1, 2])
def test_a_run_stopped_in_either_phase_goes_on_where_it_was(tiny_pair: Pair, tmp_path: Path, step: int) -> None:
    """A step of 1 stops in the first phase, which has one; a step of 2 in the second, which has two."""
    values = config(tiny_pair, "opd_after_sft", max_steps=3, first_share=0.34, save_steps=1, **SHORT)
    whole = distill(values, tmp_path / "whole")
    with pytest.raises(Stopped):
        distill(values, tmp_path / "run", trainer_class=stopped_in(step))
    first_done = load_run(tmp_path / "run" / "first").complete
    assert first_done == (step == 2)
    began: list[str] = []

    class Watched(DistillTrainer):
        def train(self, *args: Any, **kwargs: Any) -> Any:
            began.append(self.args.method)
            return super().train(*args, **kwargs)

    run = distill(values, tmp_path / "run", resume=True, trainer_class=Watched)
    assert began == (["opd_after_sft"] if first_done else ["sft", "opd_after_sft"])
    ours, theirs = weights(run.path / "model"), weights(whole.path / "model")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert run.result["tokens"] == whole.result["tokens"]


def test_under_lora_the_second_phase_trains_an_adapter_on_the_first_ones_whole_model(
    tiny_pair: Pair, tmp_path: Path
) -> None:
    values = config(tiny_pair, "opd_after_sft", use_peft=True, lora_r=2, **SHORT)
    run = distill(values, tmp_path / "run")
    assert (run.path / "first" / "model" / "model.safetensors").exists()
    assert (run.path / "model" / "adapter_model.safetensors").exists()


def test_a_dry_run_counts_both_phases(tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"distill --teacher {tiny_pair.teacher} --student {tiny_pair.student} --method opd_after_sft".split()
    words += (
        f"--problems 16 --max-steps 4 --per-device-train-batch-size 4 --output {tmp_path / 'run'} --dry-run".split()
    )
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "traces" in out and "samples" in out  # the teacher's for the first, the student's for the second


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"first": "sfd"}, "did you mean 'sft'"),
        ({"first_share": 1.0}, "first_share=1.0"),
        ({"after_rate": 0.0}, "after_rate=0.0"),
        ({"method": "gkd", "after_rate": 0.5}, "gkd has no phase before"),
        ({"first": "none", "after_rate": 0.5}, "no phase before"),
        ({"max_steps": 1}, "would have no step"),
        ({"cache": "x", "method": "gkd", "lmbda": 0.0, "first": "sft"}, "leave cache out"),
        ({"problems_part": [0.0, 0.5]}, "the phases divide all problems"),
        ({"first": "none", "problems_part": [0.5, 0.5]}, "problems_part=\\[0.5, 0.5\\]"),
        ({"teacher_weights": "start"}, "first sft_gold, or none"),
        ({"first": "sft", "traces": "file", "lmbda": 0.0, "traces_file": "x"}, "leave traces_file out"),
        (
            {"first": "none", "traces": "file", "lmbda": 0.0, "traces_file": "x", "problems_part": [0, 0.5]},
            "of its own",
        ),
    ],
)
def test_phases_that_make_no_sense_are_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        DistillConfig(**{"method": "opd_after_sft", **values})


def test_a_phase_without_enough_problems_is_told_before_any_work(tiny_pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="problems to train on"):
        distill(config(tiny_pair, "opd_after_sft", problems=6), tmp_path / "run")
    assert not (tmp_path / "run").exists()
