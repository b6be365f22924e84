"""A suite is mounted from end to end on the embedded pair: few problems, trainings of a step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from distillknob.attacks.cell import run_cell
from distillknob.attacks.config import AttackConfig
from distillknob.attacks.models import ModelOptions
from distillknob.attacks.stage import attack, further_cells
from distillknob.attacks.work import Work
from distillknob.errors import BadInputError
from distillknob.results.attacks import AttackResult
from distillknob.runs.run import Run, load_run
from distillknob.tasks import get_task
from result_types import all_types, faults

SUITE: dict[str, Any] = {
    "name": "small",
    "about": "for tests",
    "problems": 12,
    "validation": {"problems": 6, "samples": 1},
    "test": {"problems": 6, "samples": 2},
    "utility": {"problems": 6, "samples": 1},
    "seed": 0,
    "worst": {"attacks": 1, "seeds": [1]},
    "words": {"protects": 0.25, "broken": 0.75},
    "tiers": {
        "text": {"interface": "text", "queries": 4, "labels": True},
        "logits": {"interface": "on_policy", "queries": 4, "labels": True},
    },
    "controls": {"untrained": {"kind": "untrained"}, "solo": {"kind": "solo", "n": 2}},
    "attacks": {
        "traces-1": {"kind": "traces", "n": 1},
        "traces-2": {"kind": "traces", "n": 2},
        "gkd": {"kind": "divergence", "divergence": "jsd", "lmbda": 0.0},
        "merged": {"kind": "merged"},
    },
    "across": ["traces-1", "untrained"],
    "planted_attacks": {},
    "planted": {"identity": {"defence": "identity", "attack": "traces-1", "reference": "traces-1", "recovers": "all"}},
}
RECIPE = {
    "distill": {
        "max_steps": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "gradient_checkpointing": False,
        "curve_steps": 75,  # a section that serves other experiments too
    }
}


def settings(folder: Path, **changes: Any) -> AttackConfig:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "suite.yaml").write_text(yaml.safe_dump(SUITE))
    values = {"suite": str(folder / "suite.yaml"), "defended": ["answers_only"], "attackers": ["zoo:proxy"], **changes}
    return AttackConfig(**values, recipe=RECIPE)


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("mounted")
    return attack(settings(folder), folder / "run")


def arms(run: Run) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(row["target"], row["attack"], row["attacker"]): row for row in run.result["arms"]}


def test_the_result_is_of_its_type_and_its_page_is_written(mounted: Run) -> None:
    assert not list(faults(mounted.result, AttackResult)), list(faults(mounted.result, all_types()["AttackResult"]))
    assert (mounted.path / "report.html").exists()


def test_every_arm_is_mounted_on_every_target_and_what_leaves_the_teacher_alone_once(mounted: Run) -> None:
    rows = arms(mounted)
    student, other = "zoo:student", "zoo:proxy"
    names = {name for target, name, attacker in rows if (target, attacker) == ("original", student)}
    assert names == {"untrained", "solo", "traces-1", "traces-2", "gkd", "merged"}
    names = {name for target, name, attacker in rows if (target, attacker) == ("answers_only", student)}
    assert names == {"traces-1", "traces-2", "gkd", "merged"}
    assert {name for _, name, attacker in rows if attacker == other} == {"traces-1", "untrained"}


def test_what_an_attack_takes_is_counted(mounted: Run) -> None:
    rows = arms(mounted)
    of = {name: rows["original", name, "zoo:student"]["cost"] for name in ("untrained", "solo", "traces-1", "traces-2")}
    assert [of[name]["queries"] for name in of] == [0, 0, 12, 24]
    assert of["traces-2"]["tokens"] > of["traces-1"]["tokens"] > 0 == of["solo"]["tokens"]
    assert rows["original", "traces-1", "zoo:student"]["access"]["text"] == "text · 1× queries · no clean data"


def test_an_attack_that_can_t_be_mounted_says_why_and_the_others_go_on(mounted: Run) -> None:
    rows = arms(mounted)
    assert rows["original", "merged", "zoo:student"]["state"] == "not applicable"
    assert "public model" in rows["original", "merged", "zoo:student"]["reason"]
    assert rows["answers_only", "gkd", "zoo:student"]["state"] == "not applicable"
    assert rows["answers_only", "traces-2", "zoo:student"]["state"] == "done"


def test_the_worst_attacks_are_trained_again_with_the_suite_s_further_seeds(mounted: Run) -> None:
    rows = arms(mounted)
    seeds = [rows["answers_only", name, "zoo:student"]["seeds"] for name in ("traces-1", "traces-2")]
    assert sorted(seeds) == [[0], [0, 1]]
    assert rows["original", "untrained", "zoo:student"]["seeds"] == [0]  # nothing about it is drawn


def test_a_suite_that_did_not_find_what_was_planted_gives_no_verdicts(mounted: Run) -> None:
    (planted,) = mounted.result["planted"]
    assert planted["planted"] == "identity"
    if not planted["passed"]:
        assert mounted.result["worst"] == [] and "identity" in mounted.result["refused"]
    else:
        assert mounted.result["worst"] and mounted.result["refused"] is None


def test_answers_are_kept_of_teachers_and_students(mounted: Run) -> None:
    (example,) = mounted.result["examples"]
    asked = get_task("math").examples("test", 1, seed=0)[0]
    assert (example["prompt"], example["reference"]) == (asked.prompt, asked.reference)
    wrote = {answer["who"]: answer for answer in example["answers"]}
    assert {"original itself", "answers_only itself"} <= set(wrote)
    assert any(", original" in who for who in wrote) and any(", answers_only" in who for who in wrote)
    page = (mounted.path / "report.html").read_text()
    assert 'id="samples"' in page and "Sample answers" in page


def test_students_are_measured_on_problems_that_nobody_trained_on(mounted: Run) -> None:
    task = get_task("math")
    asked = {example.key for example in task.examples("train", 12, seed=0)}
    validation = {example.key for example in task.examples("train", 18, seed=0)[12:]}
    test = {example.key for example in task.examples("test", 6, seed=0)}
    assert not asked & validation and not test & (asked | validation)
    cell = load_run(mounted.path / "cells" / "original" / "traces-1-zoo-student-seed0")
    assert len(cell.result["measured"]["validation"]["math"]["scores"]) == 6


def test_a_finished_run_is_returned_as_it_is_and_another_suite_is_refused(mounted: Run, tmp_path: Path) -> None:
    folder = mounted.path.parent
    assert attack(settings(folder), mounted.path).result == mounted.result
    other = {**SUITE, "problems": 13}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(other))
    with pytest.raises(BadInputError, match="suite"):
        attack(settings(folder, suite=str(tmp_path / "suite.yaml")), mounted.path)


def test_a_failed_cell_is_recorded_the_rest_goes_on_and_resuming_does_what_is_missing(tmp_path: Path) -> None:
    broken = {**RECIPE["distill"], "learning_rate": 1e30}  # the loss of the second step is no number
    changes = {"defended": [], "attackers": [], "attacks": ["traces-1"], "planted": False}
    config = settings(tmp_path, **changes)
    config.recipe = {"distill": {**broken, "max_steps": 3, "max_grad_norm": 0.0}}
    run = attack(config, tmp_path / "run")
    place = run.path / "cells/original/traces-1-zoo-student-seed0"
    assert not run.complete and json.loads((place / "failed.json").read_text())["tries"] == 1
    assert (run.path / "report.html").exists()
    untrained = run.path / "cells/original/untrained-zoo-student-seed0/manifest.json"
    before = untrained.stat().st_mtime_ns
    again = attack(config, tmp_path / "run", resume=True)
    assert again.complete and untrained.stat().st_mtime_ns == before
    failed = {row["cell"]: row["reason"] for row in again.result["failed"]}
    assert set(failed) == {"original/solo-zoo-student-seed0", "original/traces-1-zoo-student-seed0"}
    states = {row["attack"]: row["state"] for row in again.result["arms"]}
    assert states["untrained"] == "done" and states["traces-1"] == "failed"


def test_a_cell_that_is_there_is_not_run_again(mounted: Run, tmp_path: Path) -> None:
    config = settings(tmp_path)
    work = Work(mounted.path, config.chosen_suite, ("math",), RECIPE, ModelOptions(), {})
    cell = config.first_cells()[0]
    place = work.place(cell)
    before = (place / "manifest.json").stat().st_mtime_ns
    assert run_cell(cell, work) is not None
    assert (place / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"attacks": ["trace-1"]}, "did you mean 'traces-1'"),
        ({"attackers": ["zoo:student"]}, "each once"),
        ({"tolerance": 2.0}, "tolerance=2.0"),
        ({"processes": 0}, "processes=0"),
        ({"tasks": []}, "tasks is empty"),
        ({"defended": ["x=zoo:proxy", "x=zoo:student"]}, "LABEL="),
        ({"suite": "quick-v9"}, "quick-v1"),
    ],
)
def test_what_can_t_be_used_is_refused_before_any_work(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        attack(settings(tmp_path, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_further_seeds_are_planned_where_the_suite_has_none(tmp_path: Path) -> None:
    config = settings(tmp_path)
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump({**SUITE, "worst": {"attacks": 0, "seeds": []}}))
    assert further_cells(AttackConfig(suite=config.suite, recipe=RECIPE), []) == []
