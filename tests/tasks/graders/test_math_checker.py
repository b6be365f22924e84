"""The process that compares mathematical answers: a checker that is broken is an error, and never a verdict."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from distillknob.errors import RunFailedError
from distillknob.tasks.graders import math_equality
from distillknob.tasks.graders.math_equality import equal, is_rounding
from distillknob.tasks.graders.mathematics import is_correct

# A checker that passes its own test and does the rest as `otherwise` says.
FAKE = """
import json, os, signal, sys
print("ready", flush=True)
for line in sys.stdin:
    question = json.loads(line)
    if question["reference"] == "\\\\frac{{1}}{{2}}":
        print(int(question["answer"] == "\\\\frac{{2}}{{4}}"), flush=True)
    else:
        {otherwise}
"""


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A worker of the test's own, and no answers of other tests'."""
    monkeypatch.setattr(math_equality, "_current", None)
    equal.cache_clear()
    yield
    if math_equality._current is not None and math_equality._current.process.poll() is None:
        math_equality._current.stop()
    equal.cache_clear()


def put(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "worker.py"
    path.write_text(source)
    monkeypatch.setattr(math_equality, "WORKER", path)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("through", ["the current folder", "PYTHONPATH", "PYTHONSTARTUP"])
def test_files_named_like_modules_are_not_imported(
    through: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = "json random sympy numbers fractions select selectors logging re typing resource math_verify mpmath antlr4"
    for name in [*names.split(), "sitecustomize", "usercustomize", "latex2sympy2_extended", "distillknob", "startup"]:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nx = 1\n")
    if through == "the current folder":
        monkeypatch.chdir(tmp_path)
    else:
        monkeypatch.setenv(through, str(tmp_path / "startup.py" if through == "PYTHONSTARTUP" else tmp_path))
    assert is_correct(r"\boxed{\frac{2}{4}x}", r"\frac{x}{2}")
    assert not is_correct(r"\boxed{\frac{3}{4}x}", r"\frac{x}{2}")
    assert not (tmp_path / "executed").exists()


@pytest.mark.usefixtures("fresh")
def test_a_checker_without_its_modules_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = math_equality.WORKER.read_text().replace("import math_verify.grader", "import math_verify_is_missing")
    put(source, tmp_path, monkeypatch)
    with pytest.raises(RunFailedError, match=r"doesn't start \(error ModuleNotFoundError: .*math_verify_is_missing"):
        is_correct(r"\boxed{x+1}", "1+x")


@pytest.mark.usefixtures("fresh")
def test_a_package_that_is_not_installed_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_equality, "NEEDED", ("math-verify", "no-such-package"))
    with pytest.raises(RunFailedError, match="without no-such-package: install"):
        is_correct(r"\boxed{x+1}", "1+x")


@pytest.mark.usefixtures("fresh")
def test_a_checker_without_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_equality, "MEMORY", 2**20)
    with pytest.raises(RunFailedError, match="memory"):
        is_correct(r"\boxed{x+1}", "1+x")


@pytest.mark.usefixtures("fresh")
def test_a_process_that_cannot_be_started_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(RunFailedError, match="Cannot allocate memory"):
        is_correct(r"\boxed{x+1}", "1+x")


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("print('ready', flush=True)\ninput()\n", "exit status|signal"),
        ("print('ready', flush=True)\nwhile input():\n    print(0, flush=True)\n", "can't tell 1/2 from 1/3 .0"),
        ("print('ready', flush=True)\nwhile input():\n    print(1, flush=True)\n", "can't tell 1/2 from 1/3 .1"),
        ("raise OSError(28, 'No space left on device')\n", "doesn't start"),
        (FAKE.format(otherwise="os._exit(1)"), "died twice at one question .exit status"),
        (FAKE.format(otherwise="os.kill(os.getpid(), signal.SIGKILL)"), "died twice at one question .signal 9"),
        (FAKE.format(otherwise="print('error OSError: disk full', flush=True); break"), "disk full"),
    ],
)
def test_a_checker_that_dies_or_says_nonsense_is_an_error_each_time(
    source: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(source, tmp_path, monkeypatch)
    for answer in ("1+x", "2+x"):
        with pytest.raises(RunFailedError, match=reason):
            is_correct(f"\\boxed{{{answer}}}", "x+1")


@pytest.mark.usefixtures("fresh")
def test_a_question_at_which_the_checker_died_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "died"
    once = f"os.path.exists({str(mark)!r}) or (open({str(mark)!r}, 'w'), os._exit(1)); print(1, flush=True)"
    put(FAKE.format(otherwise=once), tmp_path, monkeypatch)
    assert equal("x+1", "1+x") and mark.exists()


@pytest.mark.usefixtures("fresh")
def test_a_crash_is_owed_to_the_question_only_where_the_checker_proves_to_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = "os.kill(os.getpid(), signal.SIGSEGV)"
    put(FAKE.format(otherwise=crash), tmp_path, monkeypatch)
    with pytest.raises(RunFailedError, match="signal 11"):
        equal("x", "y")
    right = f"{[question for question, answer in math_equality.HEALTHY if answer == '1']!r}"
    only_hard = f"{crash} if question['reference'] == 'hard' else print(int(question in {right}), flush=True)"
    put(FAKE.format(otherwise=only_hard), tmp_path, monkeypatch)
    assert not equal("hard", "y") and not equal("hard", "z") and not equal("hard", "w")


@pytest.mark.usefixtures("fresh")
def test_what_takes_too_long_is_no_equality_and_the_next_question_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_equality, "SECONDS", 0.5)
    assert not equal("x^2", "9^{9^{9^{9}}}")
    monkeypatch.setattr(math_equality, "SECONDS", 5.0)
    assert equal("x^2", "x \\cdot x")


@pytest.mark.parametrize(
    ("reference", "answer", "same"),
    [
        (r"10^{400}+1", r"10^{400}", False),
        (r"\sin(10^{-10})", r"10^{-10}", False),
        (r"\sqrt{5+2\sqrt{6}}-\sqrt{2}-\sqrt{3}", "0", True),
        (r"e^{10^{-20}}", "1", False),
        (r"\frac{1}{10^{400}}", r"\frac{1}{10^{401}}", False),
        (r"2^{0.5}", r"\sqrt{2}", True),
        (r"x+10^{-30}", "x", False),
        (r"-\infty", r"\infty", False),
        (r"0.1+0.2", "0.3", True),
        (r"1-10^{-30}", "1", False),
    ],
)
def test_equality_has_no_absolute_tolerance(reference: str, answer: str, same: bool) -> None:
    assert equal(reference, answer) is same


@pytest.mark.parametrize(
    ("decimal", "expression", "rounds"),
    [
        ("1.41421", r"\sqrt{2}", True),
        ("1.41422", r"\sqrt{2}", False),
        ("-0.333333", r"-\frac{1}{3}", True),
        ("1.25E-9", r"\frac{1}{800000001}", True),
        ("1.26E-9", r"\frac{1}{800000001}", False),
        ("3.14159", "x", False),
        ("5.0", "5", False),
        ("1.0", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", False),
    ],
)
def test_a_rounding_is_correct_to_its_own_last_digit(decimal: str, expression: str, rounds: bool) -> None:
    assert is_rounding(Decimal(decimal), expression) is rounds
