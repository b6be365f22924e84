"""What a page answers on top: with one figure and one interval at most, or by the command that would tell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from distillknob.report.page import build_report
from distillknob.runs.run import Run
from distillknob.verdicts.teachers import teacher_label
from distillknob.verdicts.turning import turning
from planted_results import HOSTILE, calibration, demo_result
from planted_runs import MAKERS, calibrate_run, demo_run, distill_run, write_run

QUESTIONS = [
    "Is this pair distillable?",
    "What stands in the way?",
    "What to do next?",
    "What did calibration change?",
    "What would an attacker get?",
    "Can I trust it?",
]


class Answers(HTMLParser):
    """The lines under each question, the commands, and where the lines lead."""

    def __init__(self, page: Path):
        super().__init__()
        self.lines: dict[str, list[str]] = {}
        self.commands: list[str] = []
        self.under: dict[str, list[str]] = {}  # the commands of each question
        self.links: list[str] = []
        self._in = ""
        source = page.read_text(encoding="utf-8")
        start = source.index('<dl class="answers">')
        self.ids = re.findall(r'<section id="([^"]*)"', source)
        self.feed(source[start : source.index("</dl>", start)])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in = tag if tag in ("dt", "dd", "code", "a") else self._in
        if tag == "dd":
            list(self.lines.values())[-1].append("")
        if tag == "code":
            self.commands.append("")
            self.under[list(self.lines)[-1]].append("")
        if tag == "a":
            self.links.append(str(dict(attrs)["href"]).removeprefix("#"))

    def handle_endtag(self, tag: str) -> None:
        self._in = "dd" if tag in ("a", "code") else self._in

    def handle_data(self, data: str) -> None:
        if self._in == "dt":
            self.lines[data], self.under[data] = [], []
        elif self._in == "code":
            self.commands[-1] += data
            self.under[list(self.lines)[-1]][-1] += data
        elif self._in == "dd":
            lines = list(self.lines.values())[-1]
            lines[-1] += data.replace("\N{MINUS SIGN}", "-").replace("\N{NO-BREAK SPACE}", " ")

    def of(self, question: str) -> str:
        return " | ".join(" ".join(line.split()) for line in self.lines[question])


def answers(tmp_path: Path, change: Callable[[dict[str, Any]], object] = lambda result: None) -> Answers:
    result = demo_result()
    change(result)
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    return Answers(build_report(write_run(folder, "demo", result)))


@pytest.mark.parametrize("stage", MAKERS)
def test_a_line_has_one_figure_and_leads_to_a_part_of_the_page(pages: dict[str, Path], stage: str) -> None:
    read = Answers(pages[stage])
    assert 3 <= len(read.lines) <= 6 and "What to do next?" in read.lines and list(read.lines)[-1] == "Can I trust it?"
    for question, lines in read.lines.items():
        assert lines, question
        for line in lines:
            assert line.count("[") <= 1 and len(re.findall(r"\d %|points", line)) <= 1, line
            assert len(line) < 200
    assert set(read.links) <= set(read.ids)
    assert len(set(read.commands)) == len(read.commands)
    for command in read.commands:
        words = shlex.split(command)
        assert words[0] == "distillknob" and len(words) > 2


def test_a_demo_answers_all_six_in_order(tmp_path: Path) -> None:
    read = Answers(build_report(demo_run(tmp_path / "demo")))
    assert list(read.lines) == QUESTIONS
    assert read.of(QUESTIONS[0]) == (
        "Not clear: on math, the GKD student of the original teacher may gain or lose -3.0 points [-8.0, +2.0]"
    )
    assert read.of(QUESTIONS[1]) == (
        "1 trap: of 2 checks, the first (high) is wrong trace preference on qa; 1 more as on most pairs."
    )
    assert "Easier to learn from: at η = -0.5 (turned), its student on math" in read.of(QUESTIONS[3])
    assert "+28.0 points [+23.0, +33.0] | Harder to learn from: at η = +0.5 (turned)" in read.of(QUESTIONS[3])
    assert "Scores kept: η = +0.5 (turned) on math changed most for the worse, -0.5 points" in read.of(QUESTIONS[3])
    assert "Not measured here: nobody attacked this teacher; the next step measures it." in read.of(QUESTIONS[4])
    assert "Parts are missing: 1 part can't be read." in read.of(QUESTIONS[5])
    assert "One training each: another seed may differ" in read.of(QUESTIONS[5])
    (attack,) = (command for command in read.commands if " attack " in command)
    assert f"--defended {tmp_path}/demo/eta+0.5/calibrate/model" in attack and "--teacher=zoo/teacher" in attack


def test_a_gain_is_called_so_only_by_its_interval(tmp_path: Path) -> None:
    def gain(low: float, high: float) -> Callable[[dict[str, Any]], object]:
        def change(result: dict[str, Any]) -> None:
            for row in result["gains"]:
                row |= {"difference": (low + high) / 2, "interval": [low, high]}

        return change

    assert answers(tmp_path, gain(0.01, 0.2)).of(QUESTIONS[0]).startswith("Yes: on math, ")
    assert answers(tmp_path, gain(-0.2, -0.01)).of(QUESTIONS[0]).startswith("No: on math, ")
    assert answers(tmp_path, gain(0.0, 0.2)).of(QUESTIONS[0]).startswith("Not clear: on math, ")


def test_intervals_over_trainings_stand_before_those_over_problems(tmp_path: Path) -> None:
    over = {"task": "math", "who": "gkd", "measure": "score", "variant": "", "difference": 0.1}
    rows = [
        {**over, "a": "none", "eta": 0.0, "trainings": [-0.1, 0.3], "problems": [0.05, 0.15]},
        {**over, "a": "original", "eta": -0.5, "trainings": [0.02, 0.18], "problems": [-0.1, 0.3]},
    ]
    read = answers(tmp_path, lambda result: result.update(over_seeds=rows))
    assert read.of(QUESTIONS[0]).startswith("Not clear") and "[-10.0, +30.0]" in read.of(QUESTIONS[0])
    assert "Easier to learn from: at η = -0.5, its student" in read.of(QUESTIONS[3])


def test_a_calibrated_teacher_that_is_the_original_changed_nothing(tmp_path: Path) -> None:
    same = {**calibration(0.5), "kept_step": 0, "turned": turning([1.0], [1.0], eta=0.5, same="step 0").as_row()}

    def change(result: dict[str, Any]) -> None:
        for name in ("teachers", "students", "differences", "gains"):
            for row in result[name]:
                if "eta+0.5" in (row.get("teacher"), row.get("b")):
                    row |= {"label": teacher_label(0.5, same), "same": name != "students"}
                    row |= {"calibration": same} if name == "teachers" else {}

    assert "Nothing: η = +0.5 (not calibrated: it is the original)." in answers(tmp_path, change).of(QUESTIONS[3])


def test_a_score_that_may_have_fallen_is_told(tmp_path: Path) -> None:
    def change(result: dict[str, Any]) -> None:
        result["teachers"][-1] |= {"difference": -0.03, "difference_interval": [-0.04, -0.02]}

    told = answers(tmp_path, change).of(QUESTIONS[3])
    assert "A score may have fallen: η = +0.5 (turned) on instruct changed most for the worse, -3.0 points" in told


@pytest.mark.parametrize(
    ("verdict", "eta", "word", "stage"),
    [
        ("turned", 0.5, "The knob turned", "attack"),
        ("turned", -0.5, "The knob turned", "distill"),
        ("can't tell", 0.5, "Can't tell whether it turned", "calibrate"),
        ("the wrong way", 0.5, "It turned the wrong way", "calibrate"),
        ("not at all", 0.0, "The knob did not turn", "calibrate"),
    ],
)
def test_what_follows_a_calibration_depends_on_its_verdict(
    tmp_path: Path, verdict: str, eta: float, word: str, stage: str
) -> None:
    turned = {**turning([1.0, 2.0, 3.0], [2.0, 3.1, 4.2], eta=0.5).as_row(), "verdict": verdict}
    result = {"stage": "calibrate", "eta": eta, "outcome": "finished", "steps": 20, "kept_step": 20, "turned": turned}
    run = Run.open(tmp_path / "turned", "calibrate", {"teacher": "t", "target": "s", "tasks": ["math"], "eta": eta})
    run.finish(result)
    read = Answers(build_report(run.path))
    assert read.of(QUESTIONS[3]).startswith(f"{word}: at η = ")
    (following,) = read.under["What to do next?"]
    assert following.startswith(f"distillknob {stage} ")
    assert (f"{run.path}/model" in following) == (stage != "calibrate")
    assert ("--max-steps=40" in following) == (stage == "calibrate")


@pytest.mark.parametrize(
    ("remedy", "words"),
    [
        ("train on verified traces (method=sft_verified)", ["distill", "--method=sft_verified"]),
        ("calibrate the teacher (eta=-0.25), or train (method=gkd)", ["distill", "--method=gkd"]),
        ("calibrate the teacher (eta=-0.25)", ["calibrate", "--eta=-0.25", "--target=./s u"]),
        ("let fewer traces be its own (lmbda=0 to begin with, in gkd)", ["distill", "--method=gkd", "--lmbda=0"]),
        ("method=none_that_is_known and more", ["distill"]),
        ("look elsewhere", ["distill"]),
    ],
)
def test_the_next_step_of_a_diagnosis_is_the_gravest_trap_s_remedy(
    tmp_path: Path, remedy: str, words: list[str]
) -> None:
    findings = [
        {"name": "slight", "severity": "low", "remedy": "method=opd_rkl", "applicable": True},
        {"name": "grave", "task": "math", "severity": "high", "remedy": remedy, "applicable": True},
    ]
    run = Run.open(tmp_path / "run", "diagnose", {"teacher": "./t", "student": "./s u", "tasks": ["math"]})
    run.finish({"stage": "diagnose", "findings": findings})
    read = Answers(build_report(run.path))
    (step,) = read.under["What to do next?"]
    assert set(words) <= set(shlex.split(step)) and "--method=opd_rkl" not in step


def knob_row(eta: float, gain: float | None, **values: Any) -> dict[str, Any]:
    span = [None, None] if gain is None else [gain - 0.1, gain + 0.1]
    row = {"task": "sums", "scope": "ways", "eta": eta, "student_gain": gain, "student_interval": span}
    return {**row, "turns": "far", "samples": 8, **values}


FORETOLD = {
    "forecast": [{"task": "sums", "score": 0.42, "forecast": 0.423, "gain": 0.003, "interval": [-0.059, 0.065]}],
    "knob": [
        knob_row(0.5, -0.25),
        knob_row(-0.5, 0.38),
        knob_row(-0.25, 0.2),
        knob_row(-0.5, 0.9, scope="answers"),
    ],
}


def diagnosis_page(path: Path, **result: Any) -> Answers:
    config = {"teacher": "./t", "student": "./s", "tasks": ["sums"], "samples": 2, "candidates": 16}
    run = Run.open(path, "diagnose", config)
    run.finish({"stage": "diagnose", "findings": [], "forecast": [], "knob": [], **result})
    return Answers(build_report(run.path))


def test_a_diagnosis_leads_with_what_it_foretells_and_says_that_nothing_was_measured(tmp_path: Path) -> None:
    read = diagnosis_page(tmp_path / "run", **FORETOLD)
    first, second, measured = read.lines["Is this pair distillable?"]
    assert " ".join(first.split()) == (
        "Forecast, not measured: from samples, a student of the teacher as it is may gain or lose on sums +0.3 points "
        "[-5.9, +6.5]"
    )
    assert "at η = -0.5 would gain on sums +38.0 points [+28.0, +48.0]" in " ".join(second.split())
    assert measured.startswith("Not measured here") and "forecast" in read.links and "forecast" in read.ids
    down, up, _ = read.lines["What did calibration change?"]
    assert "at η = -0.5 would gain" in down and "at η = +0.5 would lose on sums -25.0 points" in " ".join(up.split())


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ({"knob": [knob_row(-0.5, None)]}, "sums names no ways of writing, by which students are foretold."),
        (
            {"findings": [{"name": "knob_range", "task": "sums", "applicable": False, "cause": "knob_samples is 0"}]},
            "knob_samples is 0.",
        ),
        ({}, "this diagnosis holds none."),
    ],
)
def test_without_a_forecast_the_page_says_why(tmp_path: Path, result: dict[str, Any], why: str) -> None:
    read = diagnosis_page(tmp_path / "run", **result)
    for question in ("Is this pair distillable?", "What did calibration change?"):
        assert read.of(question).startswith(f"No forecast: {why}")
    # A diagnosis was run, whatever of it applies.
    assert read.of("What stands in the way?").startswith("Nothing could be asked: ")


def test_a_teacher_that_is_wrong_is_said_first_and_no_command_makes_it_right(tmp_path: Path) -> None:
    accuracy = {"task": "sums", "graded": True, "teacher": 0.03, "teacher_interval": [0.01, 0.09], "student": 0.01}
    accuracy |= {"student_interval": [0.0, 0.05], "difference": 0.02, "interval": [-0.01, 0.04], "n": 100}
    findings = [
        {"name": "signal_sparsity", "task": "sums", "severity": "high", "remedy": "method=tip", "applicable": True},
        {"name": "teacher_accuracy", "task": "sums", "severity": "high", "remedy": "another one", "applicable": True},
    ]
    run = Run.open(tmp_path / "run", "diagnose", {"teacher": "./t", "student": "./s", "tasks": ["sums"]})
    run.finish({"stage": "diagnose", "findings": findings, "accuracy": [accuracy]})
    read = Answers(build_report(run.path))
    assert "Teacher right: on sums 3.0 % [1.0, 9.0] | Student" in read.of("Is this pair distillable?")
    assert "Student right: there 1.0 % [0.0, 5.0]" in read.of("Is this pair distillable?")
    assert read.of("What stands in the way?").startswith("1 trap: of 2 checks, the first (high) is teacher accuracy")
    assert "1 more as on most pairs" in read.of("What stands in the way?")
    assert read.of("What to do next?").startswith("First the teacher: see teacher accuracy on sums.")
    assert not any("tip" in command for command in read.under["What to do next?"])


def test_a_diagnosis_of_an_older_version_has_no_such_lines(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", "diagnose", {"teacher": "./t", "student": "./s", "tasks": ["sums"]})
    run.finish({"stage": "diagnose", "findings": []})
    assert "Not measured here: no student" in Answers(build_report(run.path)).of("Is this pair distillable?")


def test_an_unfinished_run_goes_on(tmp_path: Path) -> None:
    read = Answers(build_report(write_run(tmp_path / "run", "attack", None)))
    assert "Go on: take the run up where it stopped." in read.of("What to do next?")
    assert any("--resume" in command for command in read.commands)
    assert read.of("What would an attacker get?") == "Not known yet: there is no verdict."
    assert read.of("Can I trust it?").startswith("Not yet: the run hasn't finished")


def test_a_student_is_scored_against_what_it_was(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", "distill", {"teacher": "t", "student": "s", "tasks": ["math", "qa"]})
    run.finish({"stage": "distill", "method": "sft"})
    read = Answers(build_report(run.path))
    wanted = f"distillknob evaluate --models s {run.path}/model --tasks math qa --output {run.path}-evaluate"
    assert wanted in read.commands


def test_hostile_names_are_words_of_a_command_and_text_of_a_page(tmp_path: Path) -> None:
    nasty = "a; rm -rf ~ $(x) `y` '\n--output=/etc"
    run = Run.open(tmp_path / "run", "distill", {"teacher": nasty, "student": HOSTILE, "tasks": ["math"]})
    run.finish({"stage": "distill", "method": "sft"})
    read = Answers(build_report(run.path))
    named = [command for command in read.commands if "--teacher" in command]
    assert named and all(f"--teacher={nasty}" in shlex.split(command) for command in named)
    assert any(f"--student={HOSTILE}" in shlex.split(command) for command in read.commands)


def test_a_calibration_chosen_by_its_own_problems_is_told_with_care(tmp_path: Path) -> None:
    plain = Answers(build_report(calibrate_run(tmp_path / "plain", 0.5)))
    assert "Scores on held-out problems" in plain.of(QUESTIONS[5])
    row = {"task": "math", "before": 0.9, "after": 0.9, "difference": 0.0, "interval": [-0.1, 0.1], "outcome": "holds"}
    result = {"stage": "calibrate", "eta": 0.5, "kept_step": 3, "guard": [row]}
    chosen = Answers(build_report(write_run(tmp_path / "chosen", "calibrate", result))).of(QUESTIONS[5])
    assert "With care: the scores are on the problems that chose the step." in chosen
    trained = Answers(build_report(distill_run(tmp_path / "student", "gkd", 0.7)))
    assert trained.of(QUESTIONS[0]).startswith("Not measured yet: a training alone")


@pytest.mark.parametrize(
    "result",
    [
        {"stage": "calibrate", "eta": -0.5, "outcome": "finished", "kept_step": 9, "anchor_kl": 7e-5, "guard": []},
        {"stage": "distill", "method": "gkd", "first_loss": 0.05, "final_loss": 0.05, "tokens": 9},
    ],
)
def test_a_training_that_hardly_moved_its_model_is_to_be_repeated_at_a_higher_rate(
    tmp_path: Path, result: dict[str, Any]
) -> None:
    turned = {**turning([1.0, 2.0], [1.1, 1.9], eta=-0.5).as_row()}
    folder = tmp_path / "run"
    result = {"events": [], "turned": turned, **result, "steps": 40, "learning_rate": 2e-5}
    page = Answers(build_report(write_run(folder, result["stage"], result)))
    (told,) = page.under["What to do next?"]
    assert "Raise the learning rate: the first suspect" in page.of("What to do next?")
    assert shlex.split(told)[:2] == ["distillknob", result["stage"]] and "--learning-rate=6e-05" in told
    assert f" {folder / 'config.yaml'} " in told and f"--output {folder}-faster" in told


def test_a_pruned_model_s_page_leads_with_its_own_command_and_offers_none_without_a_teacher(tmp_path: Path) -> None:
    heal = "distillknob distill --teacher=./whole --student=runs/cut/model --output runs/cut-healed"
    run = Run.open(tmp_path / "run", "prune", {"model": "./whole", "tasks": ["math"]})
    run.finish({"stage": "prune", "model": "./whole", "importance": [], "next": heal})
    read = Answers(build_report(run.path))
    assert read.of("What to do next?").startswith("Heal it: ") and read.commands == [heal]
