"""Two processes, and accumulated micro-batches, give the gradients and weights of one process and one batch."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import process_worker
from distillknob.calibration.advantage import calibrated_advantages
from distillknob.cli.main import main
from distillknob.models.load import load_model
from distillknob.runs.run import Run, load_run, verify_manifest
from distillknob.runtime.processes import disconnect, process_index, wait
from launch import launch
from pairs import Pair


def trained(stage: str, pair: Pair, output: Path, *, processes: int, batch: int, accumulation: int = 1) -> Path:
    """The folder with the gradients of the first step and the weights after ten."""
    arguments = (stage, pair.teacher, pair.student, str(output), batch, accumulation)
    environment = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = launch(process_worker.train, arguments, output / "log", processes=processes, environment=environment)
    assert not any(done.statuses), done.stderr[-3000:]
    return output


def trained_in_three_ways(stage: str, pair: Pair, folder: Path) -> tuple[Path, Path, Path]:
    """As `trained`: by one process, by two, and in accumulated micro-batches."""
    return (
        trained(stage, pair, folder / "one", processes=1, batch=8),
        trained(stage, pair, folder / "two", processes=2, batch=4),
        trained(stage, pair, folder / "accumulated", processes=1, batch=4, accumulation=2),
    )


def distance(one: Path, other: Path, name: str) -> float:
    """The length of the difference of all tensors together, relative to that of the first."""
    first, second = (torch.load(folder / name, weights_only=False) for folder in (one, other))
    assert first.keys() == second.keys() and first
    length = sum(float(tensor.double().square().sum()) for tensor in first.values()) ** 0.5
    apart = sum(float((first[key].double() - second[key].double()).square().sum()) for key in first) ** 0.5
    assert length > 0
    return apart / length


ON_RECORDED = ["calibrate", "gkd", "sft", "gkd+tip", "spans", "projection"]
OVER_A_BATCH = ["redi", "tsd_kd", "edge_body", "ps_kd", "gold"]  # whose means and memories are of all processes


@pytest.mark.parametrize("stage", [*ON_RECORDED, *OVER_A_BATCH])
def test_processes_and_micro_batches_change_nothing(
    tiny_pair: Pair, tiny_other: str, tmp_path: Path, stage: str
) -> None:
    pair = tiny_pair._replace(teacher=tiny_other) if stage == "gold" else tiny_pair
    one, two, accumulated = trained_in_three_ways(stage, pair, tmp_path)
    for other in (two, accumulated):
        assert distance(one, other, "gradients.pt") < 1e-6
        assert distance(one, other, "weights.pt") < 1e-5
    start = load_model(tiny_pair.teacher if stage == "calibrate" else tiny_pair.student).model
    torch.save(dict(start.named_parameters()), tmp_path / "weights.pt")
    assert distance(tmp_path, one, "weights.pt") > 1e-3  # they moved, by more than they may differ


@pytest.mark.parametrize("stage", ["sampled-calibrate", "sampled-gkd", "sampled-entrocraft"])
def test_training_on_own_samples_is_the_same_over_processes_and_micro_batches(
    tiny_pair: Pair, tmp_path: Path, stage: str
) -> None:
    """The random numbers of a sample follow from what it is, not from the process that draws it."""
    one, two, accumulated = trained_in_three_ways(stage, tiny_pair, tmp_path)
    for other in (two, accumulated):
        assert distance(one, other, "weights.pt") < 1e-5
    assert distance(one, two, "gradients.pt") < 1e-5


def test_the_advantages_of_sampled_groups_are_global(tiny_pair: Pair, tmp_path: Path) -> None:
    """Six samples a process and groups of four: a group lies on both processes."""
    folder = trained("sampled-calibrate", tiny_pair, tmp_path, processes=2, batch=6)
    told = [torch.load(folder / f"process-{rank}.pt") for rank in (0, 1)]
    prompts = [prompt for process in told for prompt in process["prompts"]]
    assert [len(set(prompts[start : start + 4])) for start in (0, 4, 8)] == [1, 1, 1]
    assert told[0]["prompts"][-1] == told[1]["prompts"][0]
    task, log_ratio, finished, found = (
        torch.cat([torch.as_tensor(process[name]) for process in told])
        for name in ("task", "log_ratio", "finished", "advantages")
    )
    wanted = calibrated_advantages(task, log_ratio, 0.5, 4, right_B=(task >= 1) & finished)
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)
    assert wanted.abs().max() > 0.5
    assert told[0]["items"] == told[1]["items"] == told[0]["tokens"] + told[1]["tokens"]


@pytest.mark.parametrize("stage", ["sampled-gkd", "sampled-gkd+tip"])
def test_the_denominator_of_sampled_answers_is_global(tiny_pair: Pair, tmp_path: Path, stage: str) -> None:
    folder = trained(stage, tiny_pair, tmp_path, processes=2, batch=4)
    told = [torch.load(folder / f"process-{rank}.pt") for rank in (0, 1)]
    assert told[0]["items"] == told[1]["items"] == told[0]["tokens"] + told[1]["tokens"]
    assert min(process["tokens"] for process in told) > 0


def test_all_processes_replay_at_the_same_steps_what_each_has_written(tiny_pair: Pair, tmp_path: Path) -> None:
    folder = trained("sampled-distillm", tiny_pair, tmp_path, processes=2, batch=4)
    told = [torch.load(folder / f"process-{rank}.pt") for rank in (0, 1)]
    assert [step["share"] for step in told[0]] == [step["share"] for step in told[1]]
    for process in told:  # a fresh step fills the buffer, a second one replaces it, and the third replays
        first, second, third = process
        assert first["kept"] == [] and second["kept"] == first["read"] and third["kept"] == second["read"]
        assert second["read"] != first["read"] and sorted(third["read"]) == sorted(third["kept"])
    assert told[0][2]["kept"] != told[1][2]["kept"]


STAGES = {
    "calibrate": "--teacher {0} --target {1} --eta -0.5 --max-steps 4 --guard-steps 2 --utility-tolerance 0.9 "
    "--num-generations 4 --per-device-train-batch-size 8 --problems 16 --guard-problems 6 --guard-samples 2 "
    "--learning-rate 1e-3 --no-gradient-checkpointing --max-completion-length 12",
    "distill": "--teacher {0} --student {1} --method gkd --max-steps 3 --problems 24 --per-device-train-batch-size 4 "
    "--learning-rate 1e-3 --no-gradient-checkpointing --max-completion-length 12",
    "cache": "--teacher {0} --problems 12 --top-k 8 --max-completion-length 12",
    "evaluate": "--models {0} {1} --problems 7 --samples 3 --k 2 --max-new-tokens 12",
    "diagnose": "--teacher {0} --student {1} --problems 5 --samples 2 --candidates 3 --gradient-problems 3 "
    "--max-new-tokens 12",
    "prune": "--model {0} --mlp-width 16 --problems 9",
}


def by_command(stage: str, pair: Pair, output: Path, processes: int) -> tuple[str, dict[str, Any]]:
    """What the command prints, and its result, from so many processes."""
    words = [stage, *STAGES[stage].format(pair.teacher, pair.student).split(), "--json", "--output", str(output)]
    done = launch(main, (words,), output.with_name(f"log-{processes}"), processes=processes)
    assert not any(done.statuses), done.stderr[-3000:]
    return done.stdout, load_run(output).result


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_on_two_processes(tiny_pair: Pair, tmp_path: Path, stage: str) -> None:
    printed, result = by_command(stage, tiny_pair, tmp_path / "run", 2)
    assert json.loads(printed) == result  # one of the two tells
    assert verify_manifest(tmp_path / "run") == []
    assert not list((tmp_path / "run").rglob("*partial*"))
    if stage == "evaluate":
        assert [task["n_problems"] for model in result["models"] for task in model["tasks"]] == [7, 7]
        rows = load_run(tmp_path / "run").samples()
        assert len(rows) == 2 * 7 * 3
        assert len({(row["model"], row["prompt"]) for row in rows}) == 2 * 7
    if stage == "diagnose":
        alone = by_command(stage, tiny_pair, tmp_path / "alone", 1)[1]
        assert result.keys() == alone.keys()
        assert [row["n"] for row in result["findings"]] == [row["n"] for row in alone["findings"]]
        assert len(result["myopia"]) == len(alone["myopia"])
    if stage == "prune":
        alone = by_command(stage, tiny_pair, tmp_path / "alone", 1)[1]
        assert (result["texts"], result["held_back"]) == (alone["texts"], alone["held_back"]) == (7, 2)
        for side in ("before", "after"):
            assert result[side]["loss"] == pytest.approx(alone[side]["loss"], rel=1e-5)
    if stage in ("calibrate", "distill"):
        assert load_model(str(tmp_path / "run" / "model")).model.num_parameters() > 0
        steps = [row["step"] for row in load_run(tmp_path / "run").metrics() if "peak_memory" not in row]
        assert steps == list(range(1, result["steps"] + 1))
        if stage == "calibrate":
            assert result["kept_step"] > 0


def open_late(output: Path) -> None:
    if process_index() == 0:
        time.sleep(3)
    run = Run.open(output, "diagnose", {"eta": 0.5})
    (run.unfinished / str(process_index())).mkdir(parents=True)
    wait()
    disconnect()


def test_no_process_works_in_a_run_before_the_first_has_opened_it(tmp_path: Path) -> None:
    done = launch(open_late, (tmp_path / "run",), tmp_path / "log", processes=2)
    assert not any(done.statuses), done.stderr[-3000:]
    assert {item.name for item in (tmp_path / "run" / "unfinished").iterdir()} == {"0", "1"}


def test_a_bad_input_is_told_once(tiny_pair: Pair, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "distillknob"]
    words = ["evaluate", "--models", tiny_pair.teacher, "--tasks", "maths", "--output", str(tmp_path / "run")]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert done.stderr.count("no task named 'maths'") == 1
    assert not (tmp_path / "run").exists()
