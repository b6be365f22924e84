"""Methods are compared on tiny models: under one budget, by rates of their own, in cells that are kept and resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import small_sweeps
from distillknob.errors import BadInputError
from distillknob.experiments.compare.config import CompareConfig
from distillknob.experiments.compare.rates import chosen
from distillknob.experiments.compare.stage import check, compare
from distillknob.experiments.compare.work import cell_config, steps
from distillknob.inputs.preflight import Preflight
from distillknob.methods import METHODS
from distillknob.runs.kept import read_cells
from distillknob.runs.run import Run, load_run
from distillknob.stats import paired_difference
from distillknob.tasks import get_task
from pairs import Pair
from result_types import faults_below


def recipe(pair: Pair) -> dict[str, Any]:
    sections = small_sweeps.recipe(pair)
    sections["evaluate"] = {"problems": 6, "samples": 2, "k": 2, "max_new_tokens": 8}
    return {**sections, "sweep": {"etas": [0.0]}, "tasks": ["qa"]}


def settings(pair: Pair, **values: Any) -> CompareConfig:
    common: dict[str, Any] = {
        "methods": ["gkd", "sft_gold", "tip"],
        "teachers": [f"first={pair.teacher}", f"second={pair.student}"],
        "tasks": ["qa"],
        "rate_multiples": [0.5, 1.0],
        "rate_steps": 1,
        "rate_problems": 5,
        "learning_rates": {"tip": 3e-3},
        "recipe": recipe(pair),
    }
    return CompareConfig(**{**common, **values})


def decided(config: CompareConfig) -> CompareConfig:
    check(config, Preflight())
    return config


@pytest.fixture(scope="module")
def compared(tiny_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("compared")
    return compare(settings(tiny_pair, kept=str(folder / "kept.jsonl.gz")), folder / "run")


def rows(run: Run) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["teacher"], row["method"]): row for row in run.result["rows"]}


def test_the_result_is_of_its_type_and_its_page_is_written(compared: Run) -> None:
    assert compared.complete and faults_below(compared.path) == []
    assert "Methods side by side" in (compared.path / "report.html").read_text()


def test_every_method_is_measured_on_every_teacher_and_what_needs_none_is_trained_once(compared: Run) -> None:
    made = rows(compared)
    assert set(made) == {(t, m) for t in ("first", "second") for m in ("gkd", "sft_gold", "tip")}
    assert {row["state"] for row in made.values()} == {"done"}
    assert [made["first", name]["alone"] for name in ("gkd", "sft_gold", "tip")] == [False, True, False]
    students = {str(path.relative_to(compared.path / "cells")) for path in compared.path.glob("cells/students/*/*")}
    assert "students/without-teacher/sft_gold-seed0" in students and len(students) == 5
    assert made["first", "sft_gold"]["score"] == made["second", "sft_gold"]["score"]


def test_a_rate_is_chosen_on_train_problems_that_its_training_left_alone(compared: Run) -> None:
    task = get_task("qa")
    trained = {example.key for example in task.examples("train", 8, seed=0)}
    held_back = {example.key for example in task.examples("train", 13, seed=0)[8:]}
    test = {example.key for example in task.examples("test", 6, seed=0)}
    assert not held_back & (trained | test)
    cell = load_run(compared.path / "cells" / "rates" / "gkd-x0.5")
    assert len(cell.result["scores"]["qa"]) == 5 and cell.result["training"]["steps"] == 1
    by_method = {row["method"]: row for row in compared.result["rates"]}
    assert by_method["tip"]["by"] == "hand" and by_method["tip"]["learning_rate"] == 3e-3
    gkd = by_method["gkd"]
    assert [one["learning_rate"] for one in gkd["candidates"]] == [5e-4, 1e-3]
    wanted = chosen({one["learning_rate"]: one["score"] for one in gkd["candidates"]})
    assert gkd["learning_rate"] == wanted == rows(compared)["first", "gkd"]["learning_rate"]


def test_of_two_rates_that_tie_the_lower_is_chosen() -> None:
    assert chosen({2.0: 0.5, 1.0: 0.5, 0.5: 0.4}) == 1.0
    assert chosen({2.0: 0.6, 1.0: 0.5}) == 2.0
    assert chosen({}) is None


def test_a_difference_is_paired_by_problem_with_the_baseline_of_the_same_teacher(compared: Run) -> None:
    def scores(name: str) -> list[float]:
        result = load_run(compared.path / "cells" / name).result
        return list(result["scores"]["qa"])

    row = rows(compared)["second", "tip"]
    baseline, own = scores("students/second/gkd-seed0"), scores("students/second/tip-seed0")
    wanted = paired_difference(baseline, own)
    assert row["to_baseline"]["difference"] == pytest.approx(wanted.mean)
    assert row["to_baseline"]["problems"] == pytest.approx(wanted.as_list())
    assert row["to_before"]["difference"] == pytest.approx(np.mean(own) - np.mean(scores("before")))
    assert row["to_baseline"]["trainings"] is None and row["to_baseline"]["p_trainings"] is None
    assert row["to_baseline"]["adjusted"] >= row["to_baseline"]["p_problems"]
    assert rows(compared)["second", "gkd"]["to_baseline"] is None
    ranks = sorted(row["rank"] for (teacher, _), row in rows(compared).items() if teacher == "second")
    assert ranks[0] == 1


def test_time_and_memory_of_a_training_are_measured(compared: Run) -> None:
    for (_, method), row in rows(compared).items():
        assert row["step_seconds"] > 0 and row["steps"] == 2 and row["tokens"] > 0
        assert (method == "gkd") == (row["relative_time"] == 1.0)
        assert row["peak_memory"] is None or 2**26 < row["peak_memory"] < 2**34


def test_a_method_that_cannot_keep_the_tokens_of_a_step_is_trained_without_and_says_so(compared: Run) -> None:
    made = rows(compared)
    assert "tokens_per_step" in made["first", "tip"]["budget"] and made["first", "gkd"]["budget"] is None
    assert made["first", "gkd"]["tokens"] == 16 == 2 * compared.result["tokens_per_step"]


def test_weights_are_deleted_when_a_cell_is_measured(compared: Run) -> None:
    assert not list(compared.path.rglob("*.safetensors")) and not list(compared.path.rglob("failed.json"))


def test_kept_cells_are_not_run_again_and_their_file_keeps_its_bytes(
    compared: Run, tiny_pair: Pair, tmp_path: Path
) -> None:
    file = tmp_path / "kept.jsonl.gz"
    shutil.copy(compared.path.parent / "kept.jsonl.gz", file)
    assert set(read_cells(file)) == {
        str(path.parent.relative_to(compared.path / "cells")) for path in compared.path.glob("cells/**/manifest.json")
    }
    before = file.read_bytes()
    again = compare(settings(tiny_pair, kept=str(file)), tmp_path / "again")
    assert file.read_bytes() == before and not list(again.path.glob("cells/**/manifest.json"))
    assert {**again.result, "notes": []} == {**compared.result, "notes": []}
    other = settings(tiny_pair, kept=str(file), settings={"distill": {"max_steps": 3}})
    with pytest.raises(BadInputError, match="max_steps was 2, now 3"):
        compare(other, tmp_path / "other")


def test_all_takes_what_applies_and_tells_of_the_others_why(tiny_pair: Pair) -> None:
    config = decided(settings(tiny_pair, methods=["all"], teachers=[tiny_pair.teacher]))
    left = {one.method: one.reason for one in config.grid.left_out}
    assert {"gkd", "sft", "spans"} <= set(config.grid.methods)
    assert set(left) | set(config.grid.methods) == set(METHODS) and not set(left) & set(config.grid.methods)


def test_what_applies_is_decided_for_each_task_that_has_a_student_of_its_own(tiny_pair: Pair) -> None:
    """Views of a solution can be made of a question's answer, not of an instruction's."""
    common: dict[str, Any] = {"methods": ["all"], "teachers": [tiny_pair.teacher], "tasks": ["qa", "instruct"]}
    rates = {"learning_rates": {}, "rate_steps": 2}
    together = decided(settings(tiny_pair, **common, **rates)).grid
    assert "avsd" not in together.methods
    apart = decided(settings(tiny_pair, **common, **rates, separate_tasks=True))
    assert [entry.tasks for entry in apart.grid.entries if entry.method == "avsd"] == [("qa",)]
    assert [one.tasks for one in apart.grid.left_out if one.method == "avsd"] == [("instruct",)]
    assert {cell.tasks for cell in apart.candidates("avsd")} == {("qa",)}


def test_all_between_two_tokenizers_leaves_out_what_compares_tokens(tiny_pair: Pair, checkpoints: Path) -> None:
    pair = {**recipe(tiny_pair), "student": str(checkpoints / "other")}
    common = {"teachers": [tiny_pair.teacher], "recipe": pair, "learning_rates": {}}
    with pytest.raises(BadInputError, match=r"gkd on teacher: gkd compares next-token distributions"):
        decided(settings(tiny_pair, **{**common, "methods": ["all"]}))
    config = decided(settings(tiny_pair, **{**common, "methods": ["all"], "baseline": "sft"}))
    left = {one.method: one.reason for one in config.grid.left_out}
    assert "different tokenizers" in left["gkd"] and {"spans", "uld", "sft"} <= set(config.grid.methods)
    assert config.chosen_methods[0] == "sft"
    with pytest.raises(BadInputError, match="opd_rkl on teacher: opd_rkl compares"):
        decided(settings(tiny_pair, **{**common, "methods": ["sft", "opd_rkl"], "baseline": "sft"}))


@pytest.mark.parametrize(
    "values, message",
    [
        ({"methods": ["gkd", "all"]}, "all has the others in it"),
        ({"methods": ["gdk"]}, "did you mean 'gkd'"),
        ({"methods": ["sft"], "learning_rates": {}}, "gkd is no method of methods"),
        ({"further_seeds": [1]}, "give both, or neither"),
        ({"further_seeds": [1], "further_methods": ["sft"]}, "sft is no method of methods"),
        ({"methods": ["gkd", "opd_rkl"], "further_seeds": [1], "further_methods": ["opd_rkl"]}, "without the baseline"),
        ({"rate_multiples": [0.0]}, "must be above 0"),
        ({"learning_rates": {"gkd": float("nan")}}, "must be above 0"),
        ({"teachers": ["a=x", "a=y"]}, "two teachers are called 'a'"),
        ({"settings": {"calibrate": {}}}, "give a section of distill or evaluate"),
        ({"settings": {"distill": {"lmbda": 1.0}}}, "part of every method"),
        ({"settings": {"distill": {"first": "sft"}}}, "part of every method"),
        ({"settings": {"distill": {"skills": "skills.jsonl"}}}, "give it to the methods that need it"),
        ({"of_methods": {"gdk": {}}}, "did you mean 'gkd'"),
        ({"of_methods": {"gkd": 3}}, "give fields of distill, as a mapping"),
        ({"of_methods": {"gkd": {"max_steps": 3}}}, "compared with the same max_steps"),
        ({"of_methods": {"gkd": {"problem": 3}}}, "did you mean 'problems'"),
        ({"seeds": []}, "name at least one"),
    ],
)
def test_what_makes_no_comparison_is_refused(tiny_pair: Pair, values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        settings(tiny_pair, **values)


def test_settings_of_one_method_are_its_cells_own_and_teachers_of_its_own_serve_all(tiny_pair: Pair) -> None:
    own = {"tip": {"problems": 6}, "mopd": {"teachers": {"qa": tiny_pair.teacher}}, "sft": {"problems": 5}}
    methods = ["gkd", "tip", "mopd"]  # those of a method that isn't asked for wait in the recipe
    config = decided(settings(tiny_pair, methods=methods, of_methods=own, rate_steps=2))
    students = config.students(dict.fromkeys(methods, 1e-3))
    by_method: dict[str, Any] = {cell.method: steps(cell, config.of_cells)[0].config for cell in students}
    assert by_method["tip"].problems == 6 and by_method["gkd"].problems == recipe(tiny_pair)["distill"]["problems"]
    assert by_method["mopd"].several_teachers == [tiny_pair.teacher]
    assert [cell.name for cell in students if cell.method == "mopd"] == ["students/without-teacher/mopd-seed0"]
    before = decided(settings(tiny_pair, methods=methods[:2], rate_steps=2)).students({"gkd": 1e-3, "tip": 1e-3})
    plain, same = ({c.name: cell_config(c, config.of_cells) for c in cells} for cells in (before, students))
    assert plain["students/first/gkd-seed0"] == same["students/first/gkd-seed0"]
    assert plain["students/first/tip-seed0"] != same["students/first/tip-seed0"]


def test_a_training_that_is_too_short_for_a_method_where_its_rate_is_chosen_is_told_before_work(
    tiny_pair: Pair,
) -> None:
    """It learns from what it read before: each text twice. The search for a rate reads each once at most."""
    common: dict[str, Any] = {"methods": ["gkd", "ps_kd"], "rate_steps": 1, "settings": {"distill": {"max_steps": 8}}}
    with pytest.raises(BadInputError, match=r"ps_kd on first: .*read 2 times"):
        decided(settings(tiny_pair, learning_rates={}, **common))
    config = decided(settings(tiny_pair, learning_rates={"ps_kd": 1e-3}, **common))
    assert "ps_kd" in config.grid.methods


def test_a_comparison_needs_a_number_of_steps(tiny_pair: Pair) -> None:
    with pytest.raises(BadInputError, match="max_steps=-1"):
        decided(settings(tiny_pair, settings={"distill": {"max_steps": -1}}))


def test_further_seeds_train_the_named_methods_alone_and_intervals_over_trainings_follow(
    tiny_pair: Pair, tmp_path: Path
) -> None:
    rates = {"gkd": 1e-3, "sft": 1e-3, "sft_gold": 1e-3}
    config = settings(
        tiny_pair,
        methods=list(rates),
        teachers=[tiny_pair.teacher],
        learning_rates=rates,
        further_seeds=[1],
        further_methods=["gkd", "sft"],
        keep_models=True,
    )
    run = compare(config, tmp_path / "run")
    made = {row["method"]: row for row in run.result["rows"]}
    assert [made[name]["seeds"] for name in rates] == [[0, 1], [0, 1], [0]]
    difference = made["sft"]["to_baseline"]
    assert len(difference["by_seed"]) == 2 and made["sft_gold"]["to_baseline"]["seeds"] == [0]
    for one in (difference, made["sft_gold"]["to_baseline"]):  # one criterion for all, whatever their seeds
        assert one["trainings"] is not None and one["adjusted"] >= max(one["p_problems"], one["p_trainings"])
    assert len(list(run.path.glob("cells/students/*/*/made/distill/model/*.safetensors"))) == 5
    assert run.result["cells"] == {"planned": 6, "done": 6, "failed": 0}


def test_with_separate_tasks_each_task_has_a_student_and_one_rate_serves_all(tiny_pair: Pair, tmp_path: Path) -> None:
    config = settings(
        tiny_pair,
        methods=["gkd", "sft"],
        learning_rates={"sft": 1e-3},
        teachers=[tiny_pair.teacher],
        tasks=["qa", "instruct"],
        separate_tasks=True,
    )
    run = compare(config, tmp_path / "run")
    folders = {path.name for path in run.path.glob("cells/students/teacher/*")}
    assert folders == {f"{method}-{task}-seed0" for method in ("gkd", "sft") for task in ("qa", "instruct")}
    assert {(row["task"], row["method"], row["state"]) for row in run.result["rows"]} == {
        (task, method, "done") for task in ("qa", "instruct") for method in ("gkd", "sft")
    }
    (gkd,) = [row for row in run.result["rates"] if row["method"] == "gkd"]
    assert all(set(one["by_task"]) == {"qa", "instruct"} for one in gkd["candidates"])
    assert {row["learning_rate"] for row in run.result["rows"] if row["method"] == "gkd"} == {gkd["learning_rate"]}


def test_a_candidate_that_diverges_is_not_chosen_and_a_failed_cell_is_tried_again(
    tiny_pair: Pair, tmp_path: Path
) -> None:
    config = settings(
        tiny_pair,
        methods=["gkd", "sft"],
        learning_rates={"sft": 1e30},
        teachers=[tiny_pair.teacher],
        rate_multiples=[1e33, 1.0],
        rate_steps=3,
        settings={"distill": {"max_steps": 3, "max_grad_norm": 0.0}},
    )
    run = compare(config, tmp_path / "run")
    place = run.path / "cells/students/teacher/sft-seed0"
    assert not run.complete and json.loads((place / "failed.json").read_text())["tries"] == 1
    so_far = json.loads((run.unfinished / "result.json").read_text())
    assert {row["method"]: row["state"] for row in so_far["rows"]} == {"gkd": "done", "sft": "failed"}
    done = run.path / "cells/students/teacher/gkd-seed0/manifest.json"
    before = done.stat().st_mtime_ns
    again = compare(config, tmp_path / "run", resume=True)
    assert again.complete and done.stat().st_mtime_ns == before
    assert [row["cell"] for row in again.result["failed"]] == ["students/teacher/sft-seed0"]
    (gkd,) = [row for row in again.result["rates"] if row["method"] == "gkd"]
    assert [one["score"] is None for one in gkd["candidates"]] == [False, True]
    assert "not finite" in gkd["candidates"][1]["reason"] and gkd["learning_rate"] == pytest.approx(1e-3)


@pytest.mark.slow
def test_cells_in_processes_give_what_one_process_gives(compared: Run, tiny_pair: Pair, tmp_path: Path) -> None:
    beside = compare(settings(tiny_pair, processes=2), tmp_path / "run")
    for one, other in zip(beside.result["rows"], compared.result["rows"], strict=True):
        assert (one["score"], one["learning_rate"]) == (other["score"], other["learning_rate"])
