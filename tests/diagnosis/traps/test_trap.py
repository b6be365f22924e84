"""The seam: a trap is one object, and whoever adds one names it in TRAPS."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from diagnosed import config
from distillknob.diagnosis import traps
from distillknob.diagnosis.compare import BY_PROMPT
from distillknob.diagnosis.finding import Finding, finding_of, graded
from distillknob.diagnosis.samples import Candidates, Gathered, Missing, means_by_prompt
from distillknob.diagnosis.stage import TABLES, diagnose
from distillknob.diagnosis.traps import TRAPS
from distillknob.diagnosis.traps.base import ByPrompt, Rows, Trap
from distillknob.runs.files import read_json
from distillknob.stats import interval
from pairs import Pair


def long_answers(candidates: Candidates) -> Finding:
    length = interval(candidates.tokens_A.double().numpy(), candidates.prompt_A.numpy(), proportion=False)
    return finding_of(
        "long_answers",
        candidates.task,
        length,
        unit="tokens an answer",
        severity=graded(length, 100, 200, 400),
        cause="the student has much to say",
        remedy="ask for less",
    )


def lengths(candidates: Candidates) -> Rows:
    return [{"task": candidates.task, "longest": int(candidates.tokens_A.max())}]


def by_prompt(candidates: Candidates) -> list[ByPrompt]:
    return [ByPrompt("length", "tokens", *means_by_prompt(candidates.prompt_A, candidates.tokens_A))]


def nothing(gathered: Gathered) -> Candidates | Missing:
    return Missing(f"nobody gathers it on {gathered.task}")


ADDED = Trap(
    name="long_answers",
    needs=lambda gathered: gathered.candidates,
    finding=long_answers,
    tables={"lengths": lengths},
    by_prompt=by_prompt,
)
UNASKED = Trap(name="unasked", needs=nothing, finding=long_answers, tables={"unasked": lengths}, by_prompt=by_prompt)


def test_a_trap_that_is_added_is_asked_like_all_others(tiny_pair: Pair, tmp_path: Path) -> None:
    tasks = ["math", "instruct"]
    values = config(tiny_pair, tasks=tasks, gradient_problems=0)
    run = diagnose(values, tmp_path / "run", traps=(*TRAPS, ADDED, UNASKED))
    findings = [row for row in run.result["findings"] if row["name"] == "long_answers"]
    assert [row["task"] for row in findings] == [row["task"] for row in run.result["lengths"]] == tasks
    for finding, row in zip(findings, run.result["lengths"], strict=True):
        assert finding["applicable"] and finding["interval"][0] <= finding["value"] <= row["longest"]
    measures = [row for row in read_json(run.path / BY_PROMPT) if row["measure"] == "length"]
    assert [row["task"] for row in measures] == tasks and all(row["unit"] == "tokens" for row in measures)
    # Its task's other findings are those of any diagnosis: of the traps, and of the knob.
    assert len(run.result["findings"]) == len(tasks) * (len(TRAPS) + 3)
    # What can't be had decides alike for all: no rows, no values, and a finding that says why.
    unasked = [row for row in run.result["findings"] if row["name"] == "unasked"]
    assert [row["cause"] for row in unasked] == [f"nobody gathers it on {task}" for task in tasks]
    assert not any(row["applicable"] for row in unasked) and run.result["unasked"] == []


def test_no_two_traps_share_a_name_or_a_table() -> None:
    names = [trap.name for trap in TRAPS]
    tables = [name for table in TABLES for name in table.tables] + [name for trap in TRAPS for name in trap.tables]
    assert len(set(names)) == len(names) and len(set(tables)) == len(tables)


def test_every_file_of_traps_holds_one_that_is_asked() -> None:
    for path in Path(str(traps.__file__)).parent.glob("*.py"):
        # A base has none, and teacher hacking is read off the log of a training.
        if path.stem not in ("__init__", "base", "teacher_hacking"):
            module = import_module(f"distillknob.diagnosis.traps.{path.stem}")
            own = [value for value in vars(module).values() if isinstance(value, Trap)]
            assert own and all(trap in TRAPS for trap in own), path.stem


def test_every_trap_has_a_row_in_the_docs() -> None:
    page = (Path(__file__).parents[3] / "docs" / "explanation" / "traps.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    for trap in TRAPS:
        assert any(f"`{trap.name.removesuffix('_per_token')}`" in row for row in rows), trap.name
