"""A chat template that writes today's date writes one date in a run, whatever day it is resumed on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from distillknob.errors import BadInputError
from distillknob.evaluation.config import EvaluateConfig
from distillknob.evaluation.stage import evaluate
from distillknob.models.chat import prompt_ids, set_in_templates
from distillknob.models.load import load_tokenizer
from distillknob.runs.run import Run, load_run
from distillknob.runtime.template_date import by_name, fix_dates, undated
from pairs import Pair

# How the models that are known to do so ask for it.
LLAMA = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}'
    '{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}'
    '{{ "Today Date: " + date_string + "\\n" }}'
)
GRANITE = """{%- set system = "Today's Date: " + strftime_now('%B %d, %Y') + "." %}{{ system }}"""
WITHIN = (
    "{%- macro today(form) %}{{ strftime_now(form) }}{%- endmacro %}{%- for _ in [1] %}{{ today('%Y-%m-%d, a %A') }}"
    "{%- endfor %}"
)


@pytest.fixture
def dated(tiny_pair: Pair, tmp_path: Path) -> Callable[[str], str]:
    def make(beginning: str = GRANITE) -> str:
        folder = tmp_path / "dated"
        shutil.copytree(tiny_pair.student, folder, dirs_exist_ok=True)
        template = (Path(tiny_pair.student) / "chat_template.jinja").read_text()
        (folder / "chat_template.jinja").write_text(beginning + template)
        return str(folder)

    return make


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes it another day, for transformers and for a run that begins."""

    def becomes(today: str) -> None:
        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return datetime.fromisoformat(today).replace(tzinfo=tz)

        class Calendar(date):
            @classmethod
            def today(cls) -> Any:
                return date.fromisoformat(today)

        monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)
        monkeypatch.setattr("distillknob.runs.run.date", Calendar)

    return becomes


def rendered(tokenizer: Any) -> str:
    return str(tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False))


@pytest.mark.parametrize(
    ("beginning", "wanted"),
    [
        (LLAMA, "Today Date: 05 Jan 2026\n"),
        (GRANITE, "Today's Date: January 05, 2026."),
        (WITHIN, "2026-01-05, a Monday"),
    ],
)
def test_a_fixed_date_is_what_the_template_would_have_written_on_that_day(
    dated: Callable[[str], str], day: Callable[[str], None], beginning: str, wanted: str
) -> None:
    tokenizer = load_tokenizer(dated(beginning))
    day("2026-01-05")
    live = rendered(tokenizer)
    assert live.startswith(wanted)
    day("2026-02-07")
    assert rendered(tokenizer) != live
    template = tokenizer.chat_template
    fix_dates({"m": tokenizer}, "2026-01-05")
    assert rendered(tokenizer) == live
    fix_dates({"m": tokenizer}, "2026-01-06")
    fix_dates({"m": tokenizer}, "2026-01-05")
    assert rendered(tokenizer) == live
    with undated(tokenizer):
        assert tokenizer.chat_template == template
    assert rendered(tokenizer) == live


def test_a_template_without_a_date_stays_as_it_is(tiny_pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = load_tokenizer(tiny_pair.student)
    template = tokenizer.chat_template
    fix_dates({"m": tokenizer}, "2026-01-05")
    assert tokenizer.chat_template == template and capsys.readouterr().err == ""


def test_a_date_that_the_user_sets_is_the_model_s(dated: Callable[[str], str]) -> None:
    tokenizer = load_tokenizer(dated(GRANITE + "{{ thoughts }}"))
    set_in_templates({"m": tokenizer}, {"strftime_now": "2026-01-05", "thoughts": "none"})
    fix_dates({"m": tokenizer}, "2030-01-01")
    set_in_templates({"m": tokenizer}, {"thoughts": "some"})
    with undated(tokenizer):
        assert rendered(tokenizer).startswith("Today's Date: January 05, 2026.some")
    with pytest.raises(BadInputError, match="sets strftime_now to 'today': give a date, such as 2026-01-31"):
        set_in_templates({"m": tokenizer}, {"strftime_now": "today"})


def test_a_date_for_templates_that_read_none_is_refused(tiny_pair: Pair) -> None:
    with pytest.raises(BadInputError, match=r"no chat template of m reads the date: leave it out"):
        set_in_templates({"m": load_tokenizer(tiny_pair.student)}, {"strftime_now": "2026-01-05"})


def test_runs_of_two_days_are_told_apart_and_can_be_made_alike(
    dated: Callable[[str], str], day: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def texts(name: str, **given: Any) -> list[str]:
        config = EvaluateConfig(models=[dated(GRANITE)], problems=4, samples=4, k=4, max_new_tokens=12, **given)
        return [row["text"] for row in evaluate(config, tmp_path / name).samples()]

    day("2026-01-05")
    first = texts("first")
    assert "writes the date into its prompts: 2026-01-05 in all of this run" in capsys.readouterr().err
    day("2026-12-24")
    assert texts("second") != first
    told = capsys.readouterr().err
    assert 'set chat_template_kwargs to {"strftime_now": "2026-12-24"}' in told
    dates = [
        json.loads((tmp_path / name / "environment.json").read_text())["template_date"] for name in ("first", "second")
    ]
    assert dates == ["2026-01-05", "2026-12-24"]
    assert texts("third", chat_template_kwargs={"strftime_now": "2026-01-05"}) == first
    assert "writes the date" not in capsys.readouterr().err


def test_a_run_keeps_its_date_and_gives_it_to_the_runs_within_it(day: Callable[[str], None], tmp_path: Path) -> None:
    day("2026-01-05")
    Run.open(tmp_path / "demo", "demo", {})
    day("2026-01-06")
    again = Run.open(tmp_path / "demo", "demo", {}, resume=True)
    inner = Run.open(tmp_path / "demo" / "cell" / "evaluate", "evaluate", {})
    of_a_cache = Run.open(tmp_path / "distill", "distill", {}, template_date="2026-01-01")
    assert [run.template_date for run in (again, inner, of_a_cache)] == ["2026-01-05", "2026-01-05", "2026-01-01"]
    assert load_run(tmp_path / "distill").template_date == "2026-01-01"


def test_prompts_are_rendered_with_the_date(dated: Callable[[str], str]) -> None:
    tokenizer = load_tokenizer(dated(GRANITE))
    asked = [[{"role": "user", "content": "hi"}]]
    fix_dates({"m": tokenizer}, "2026-01-05")
    first = prompt_ids(tokenizer, asked)
    fix_dates({"m": tokenizer}, "2026-01-06")
    assert prompt_ids(tokenizer, asked) != first


def test_a_model_that_is_its_own_target_reads_one_date_on_both_sides(dated: Callable[[str], str]) -> None:
    first, second = load_tokenizer(dated(GRANITE)), load_tokenizer(dated(GRANITE))
    fix_dates(by_name(("m", first), ("m", second)), "2026-01-05")
    assert rendered(first) == rendered(second) and rendered(first).startswith("Today's Date: January 05, 2026.")
