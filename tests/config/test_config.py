"""Recipes and flags become one checked mapping; what is wrong with them is said by name, with the value."""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillknob.cli.flags import add_flags, given_flags, without_bool_values
from distillknob.config import recipe as config
from distillknob.config.recipe import build, read_recipe, resolved, stage_values
from distillknob.errors import BadInputError


class Schedule(Enum):
    LINEAR = "linear"
    COSINE = "cosine"


@dataclass
class Library:
    """Stands for TRL's configs: their way to declare fields, and a default that depends on the machine."""

    learning_rate: float = field(default=1e-6, metadata={"help": "Step size, 5%% of it or 100% of it."})
    batch_size: int = field(default=8, metadata={"help": "Samples a step."})
    bf16: bool | None = field(default=None, metadata={"help": "Half precision."})
    schedule: Schedule | str = field(default="linear", metadata={"help": "The schedule."})
    report_to: str | list[str] | None = field(default="none")
    level: str = field(default="info", metadata={"choices": {"info": 1, "debug": 2}.keys()})
    warmup: float | None = None
    padding: int | str | None = None
    counting: str | bool = "no"
    model_kwargs: dict[str, Any] | str | None = None
    kernels: dict[str, bool] | None = None
    rates: dict[str, float] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    plan: argparse.Namespace | None = None
    weights: list[float] | None = None
    hub_token: str | None = None
    derived: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise ValueError(f"a batch of {self.batch_size} has no group")


@dataclass
class Stage(Library):
    """A stage's config.

    Args:
        eta (`float`): The knob: below 0 toward the target,
            above 0 away from it.
        tasks: What is learned.
    """

    teacher: str = field(kw_only=True)
    eta: float = 0.5
    tasks: list[str] = field(default_factory=lambda: ["math"])
    kind: Literal["forward", "reverse"] = "forward"
    kinds: list[Literal["forward", "reverse"]] = field(default_factory=list)
    gate: bool = True
    limit: float = field(default=math.inf, metadata={"allow_nonfinite": True})
    bf16: bool | None = False


FIELDS = ("teacher", "eta", "tasks", "lambda_", "learning_rate")


def values_of(overrides: dict[str, Any], recipe: dict[str, Any] | None = None) -> dict[str, Any]:
    values = stage_values(Stage, "calibrate", {"teacher": "t", **(recipe or {})}, overrides)
    return {name: value for name, value in values.items() if name != "teacher"}


def parse(*flags: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser, Stage)
    return given_flags(parser.parse_args(flags), Stage)


# Recipes


def test_a_recipe_is_read(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1e-4\nb: &b {x: 1.5E3}\nc: {<<: *b, y: -2e+5}\nd: '1e-4'\ne: .5e1\nf: 1e\n")
    assert read_recipe(file) == {
        "a": 1e-4,
        "b": {"x": 1500.0},
        "c": {"x": 1500.0, "y": -2e5},
        "d": "1e-4",
        "e": 5.0,
        "f": "1e",
    }


@pytest.mark.parametrize(
    "content, message",
    [
        (b"a: 1\nb: [1, 2\nc: 3\n", "line 3"),
        (b"a: 1\n b: 2\n", "line 2: mapping values are not allowed"),
        (b"a: 1\nb: 2\na: 3\n", "line 3: the key 'a' occurs twice"),
        (b"s:\n  x: 1\n  x: 2\n", "line 3: the key 'x' occurs twice"),
        (b"a: 1\nb: caf\xe9\n", "line 2: byte 11 is no UTF-8"),
        (b"a: \x00\n", "is no YAML"),
        (b"a: !!python/object:os.system x\n", "line 1"),
        (b"", "is empty"),
        (b"# only a comment\n", "is empty"),
        (b"- a\n- b\n", r"holds \['a', 'b'\]: it must hold `name: value` lines"),
        (b"just text\n", "holds 'just text'"),
    ],
)
def test_a_bad_recipe_is_refused_with_its_place(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content)
    with pytest.raises(BadInputError, match=message) as raised:
        read_recipe(file)
    assert str(file) in str(raised.value)


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="there is no recipe"):
        read_recipe(tmp_path / "missing.yaml")
    with pytest.raises(BadInputError, match="is a directory"):
        read_recipe(tmp_path)


def test_flags_win_over_the_section_over_shared_keys_over_defaults() -> None:
    recipe = {"teacher": "shared", "eta": 1, "tasks": ["qa"], "calibrate": {"teacher": "section", "eta": 2}}
    assert stage_values(Stage, "calibrate", recipe, {"eta": "3"}) == {"teacher": "section", "eta": 3.0, "tasks": ["qa"]}
    assert stage_values(Stage, "distill", recipe, {}) == {"teacher": "shared", "eta": 1.0, "tasks": ["qa"]}


def test_a_shared_key_reaches_only_stages_that_have_it() -> None:
    recipe = {"teacher": "t", "lambda_": 0.5, "evaluate": {"anything": 1}, "calibrate": None}
    assert stage_values(Stage, "calibrate", recipe, {}, known_fields=FIELDS) == {"teacher": "t"}


@pytest.mark.parametrize(
    "recipe, message",
    [
        ({"etta": 1}, "no stage has the recipe's field 'etta', did you mean 'eta'"),
        ({"calibrat": {"eta": 1}}, "did you mean 'calibrate'"),
        ({"xyz": 1}, "no stage has the recipe's field 'xyz': remove it"),
        ({"calibrate": {"etta": 1}}, "calibrate has no field 'etta', did you mean 'eta'"),
        ({"calibrate": {"xyz": 1}}, "calibrate has no field 'xyz': see distillknob calibrate --help"),
        ({"calibrate": {"lambda_": 1}}, "calibrate has no field 'lambda_'"),
        ({"calibrate": {"derived": 1}}, "calibrate has no field 'derived'"),
        ({"calibrate": {True: 1}}, "calibrate has no field True"),
        ({"calibrate": [1]}, r"section calibrate is \[1\]: it must hold"),
        ({"distill": 3}, "section distill is 3: it must hold"),
        ({1: 2}, "the key 1, which YAML takes for no text: put it in quotes"),
        ({"hub_token": "secret"}, "no stage has|set HF_TOKEN"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest_name(recipe: dict[Any, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        stage_values(Stage, "calibrate", {"teacher": "t", **recipe}, {}, known_fields=FIELDS)


def test_without_known_names_a_shared_key_may_belong_to_anyone() -> None:
    assert stage_values(Stage, "calibrate", {"teacher": "t", "xyz": 1}, {}) == {"teacher": "t"}


def test_a_missing_required_field_is_named() -> None:
    with pytest.raises(BadInputError, match="calibrate needs teacher: pass --teacher, or set it in the recipe"):
        stage_values(Stage, "calibrate", {"eta": 1}, {})


# Types


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("eta", "1e-4", 1e-4),
        ("eta", 3, 3.0),
        ("eta", "-0.5", -0.5),
        ("batch_size", "16", 16),
        ("batch_size", "1e3", 1000),
        ("batch_size", 16.0, 16),
        ("batch_size", str(2**60 + 1), 2**60 + 1),
        ("bf16", "true", True),
        ("bf16", "none", None),
        ("bf16", None, None),
        ("gate", False, False),
        ("kind", "reverse", "reverse"),
        ("kinds", ["reverse", "forward"], ["reverse", "forward"]),
        ("schedule", "cosine", "cosine"),
        ("report_to", "none", "none"),
        ("report_to", "null", None),
        ("report_to", ["wandb"], ["wandb"]),
        ("level", "debug", "debug"),
        ("warmup", "None", None),
        ("warmup", 0, 0.0),
        ("padding", "8", 8),
        ("padding", "longest", "longest"),
        ("padding", 8, 8),
        ("counting", "all", "all"),
        ("counting", "true", True),
        ("counting", False, False),
        ("model_kwargs", '{"a": [1]}', {"a": [1]}),
        ("model_kwargs", "config.json", "config.json"),
        ("kernels", {"rope": "true"}, {"rope": True}),
        ("weights", ["1", 2], [1.0, 2.0]),
        ("weights", "[1, 2.5]", [1.0, 2.5]),
        ("limit", "inf", math.inf),
        ("plan", None, None),
    ],
)
def test_values_are_coerced(name: str, value: Any, expected: Any) -> None:
    found = values_of({name: value})[name]
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("eta", "much", "eta is 'much', but must be a number$"),
        ("eta", True, "eta is true, but must be a number$"),
        ("eta", None, "eta is null, but must be a number$"),
        ("eta", [1.0], r"eta is \[1.0\], but must be a number$"),
        ("eta", 10**400, "but must be a number$"),
        ("eta", math.nan, "eta is nan: give a finite number"),
        ("eta", "-inf", "eta is '-inf': give a finite number"),
        ("learning_rate", "nan", "learning_rate is 'nan': give a finite number"),
        ("weights", [1.0, math.inf], r"weights is \[1.0, inf\]: give a finite number"),
        ("batch_size", 1.5, "batch_size is 1.5, but must be a whole number$"),
        ("batch_size", "1.5", "batch_size is '1.5', but must be a whole number$"),
        ("batch_size", False, "batch_size is false, but must be a whole number$"),
        ("batch_size", "inf", "batch_size is 'inf', but must be a whole number$"),
        ("teacher", 7, "teacher is 7, but must be text: put it in quotes"),
        ("teacher", None, "teacher is null, but must be text$"),
        ("gate", "maybe", "gate is 'maybe', but must be true or false$"),
        ("gate", 1, "gate is 1, but must be true or false$"),
        ("kind", "revers", "kind is 'revers', but must be one of 'forward', 'reverse', did you mean 'reverse'"),
        ("kinds", ["x"], "but must be a list, each of it one of 'forward', 'reverse'$"),
        ("tasks", "math", "tasks is 'math', but must be a list, each of it text$"),
        ("tasks", [1], r"tasks is \[1\], but must be a list, each of it text$"),
        ("schedule", "cosin", "must be one of 'linear', 'cosine', did you mean 'cosine'"),
        ("level", "debu", "must be one of 'info', 'debug', did you mean 'debug'"),
        ("warmup", "soon", "must be a number or null$"),
        ("kernels", "[1]", "must be a mapping or null$"),
        ("kernels", "{", "must be a mapping or null$"),
        ("kernels", {"rope": 2}, "kernels sets rope to 2, but it must be true or false$"),
        ("rates", '{"low": "a"}', "rates sets low to 'a', but it must be a number$"),
        ("rates", {"low": [1.0]}, r"rates sets low to \[1.0\], but it must be a number$"),
        ("names", {"a": 2}, "names sets a to 2, but it must be text: put it in quotes$"),
        ("rates", {"low": math.nan}, "rates is .*: give a finite number"),
        ("plan", {}, "plan is {}, but must be given from Python or null$"),
        ("limit", ".inf", "limit is '.inf', but must be a number$"),
    ],
)
def test_wrong_values_are_refused_by_name_value_and_type(name: str, value: Any, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        values_of({name: value})


def test_a_token_is_refused_and_not_repeated() -> None:
    with pytest.raises(BadInputError, match="set HF_TOKEN in the environment") as raised:
        values_of({"hub_token": "hf_abc"})
    assert "hf_abc" not in str(raised.value)


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.integers())
def test_every_number_survives_being_a_flag(number: float, count: int) -> None:
    found = values_of({"eta": repr(number), "batch_size": str(count)})
    assert found == {"eta": number, "batch_size": count}


# Flags


def test_only_given_flags_are_seen() -> None:
    assert parse() == {}
    assert parse("--learning-rate", "1e-4", "--batch_size", "4") == {"learning_rate": "1e-4", "batch_size": "4"}
    assert parse("--tasks", "math", "qa", "--eta", "-0.5") == {"tasks": ["math", "qa"], "eta": "-0.5"}


@pytest.mark.parametrize(
    "flag, expected",
    [("--gate", True), ("--no-gate", False), ("--bf16", True), ("--no-bf16", False)],
)
def test_a_bool_is_a_flag_and_its_negation(flag: str, expected: bool) -> None:
    assert list(parse(flag).values()) == [expected]


def test_both_spellings_of_a_bool() -> None:
    @dataclass
    class Two:
        cast_head: bool = False

    parser = argparse.ArgumentParser()
    add_flags(parser, Two)
    for flag in ("--cast_head", "--cast-head", "--no-cast_head", "--no-cast-head", "--no_cast_head"):
        assert vars(parser.parse_args([flag])) == {"cast_head": not flag.startswith("--no")}


@pytest.mark.parametrize(
    ("words", "plain"),
    [
        ("--gate false", "--no-gate"),
        ("--gate=False", "--no-gate"),
        ("--gate TRUE", "--gate"),
        ("--gate 1", "--gate"),
        ("--gate no --eta 0", "--no-gate --eta 0"),
        ("--no-gate false", "--no-gate false"),
        ("--eta 1 true", "--eta 1 true"),
        ("--gate my.yaml", "--gate my.yaml"),
        ("--gate false true", "--no-gate true"),
        ("--gate=false true", "--no-gate true"),
        ("--gate --bf16 y", "--gate --bf16"),
    ],
)
def test_a_bool_takes_the_words_that_trl_takes(words: str, plain: str) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser, Stage)
    assert without_bool_values(words.split(), parser) == plain.split()


def test_a_bool_takes_no_other_word() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser, Stage)
    with pytest.raises(BadInputError, match="--gate is 'maybe', but must be true or false"):
        without_bool_values(["--gate=maybe"], parser)


def test_flags_and_recipe_agree() -> None:
    flags = parse("--eta", "2", "--model-kwargs", '{"a": 1}', "--report_to", "none", "--no-gate", "--warmup", "null")
    recipe = {"eta": 2, "model_kwargs": {"a": 1}, "report_to": ["none"], "gate": False, "warmup": None}
    assert values_of(flags) == values_of({}, {"calibrate": recipe})


def test_help_groups_explains_and_shows_defaults() -> None:
    parser = argparse.ArgumentParser(prog="x", allow_abbrev=False)
    add_flags(parser, Stage, skip=["padding"])
    text = " ".join(parser.format_help().split())
    own, inherited = text.split("inherited from Library:")
    own = own.split(" Stage: ")[1]
    assert "--eta FLOAT The knob: below 0 toward the target, above 0 away from it. (default: 0.5)" in own
    assert "--tasks TEXT [TEXT ...] What is learned. (default: ['math'])" in own
    assert "--kind {forward,reverse} (default: 'forward')" in own
    assert "--teacher TEXT (required)" in own
    assert "--bf16, --no-bf16" in own  # redeclared by the stage
    assert "--learning_rate FLOAT Step size, 5% of it or 100% of it. (default: 1e-06)" in inherited
    assert "--warmup FLOAT (default: null)" in inherited
    assert "--model_kwargs JSON|TEXT" in inherited
    for absent in ("learning-rate", "--padding", "--plan", "--derived", "hub_token"):
        assert absent not in text


def test_a_typo_in_a_flag_is_no_abbreviation() -> None:
    with pytest.raises(SystemExit):
        parse("--task", "math")


# What is stored and built


def test_resolved_holds_own_fields_and_those_of_the_library_that_were_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "is_library", lambda cls: cls is Library)
    values = stage_values(Stage, "calibrate", {"teacher": "t", "learning_rate": "1e-4"}, {"eta": -1})
    assert resolved(Stage, values) == {
        "learning_rate": 1e-4,
        "bf16": False,
        "teacher": "t",
        "eta": -1.0,
        "tasks": ["math"],
        "kind": "forward",
        "kinds": [],
        "gate": True,
        "limit": math.inf,
    }


def test_resolved_shares_nothing_with_the_values() -> None:
    values: dict[str, Any] = {"teacher": "t", "tasks": ("a",), "schedule": Schedule.COSINE}
    found = resolved(Stage, values)
    assert found["tasks"] == ["a"] and found["schedule"] == "cosine"


@pytest.mark.parametrize("error", [ValueError("no"), FileNotFoundError(2, "no"), ModuleNotFoundError("no")])
def test_what_a_config_meets_is_bad_input(error: Exception) -> None:
    """TRL and transformers read files and look for engines while a config is made."""

    def refuses() -> None:
        raise error

    with pytest.raises(BadInputError, match="no"):
        build(refuses, {})  # type: ignore[arg-type]


def test_build_makes_the_dataclass_and_reports_what_it_refuses() -> None:
    assert build(Stage, {"teacher": "t", "batch_size": 4}).batch_size == 4
    with pytest.raises(BadInputError, match="Stage: a batch of 1 has no group"):
        build(Stage, {"teacher": "t", "batch_size": 1})


def test_trls_own_configs_become_flags() -> None:
    """Every field of the configs that the stages extend must be understood, whatever TRL's next release adds."""
    from trl import GRPOConfig  # type: ignore[attr-defined]
    from trl.trainer.distillation_config import DistillationConfig

    for cls in (GRPOConfig, DistillationConfig):
        parser = argparse.ArgumentParser(allow_abbrev=False)
        add_flags(parser, cls)
        parser.format_help()
        given = given_flags(parser.parse_args(["--learning-rate", "1e-4", "--no-bf16", "--report_to", "none"]), cls)
        values = stage_values(cls, "calibrate", {}, {**given, "generation_kwargs": '{"top_k": 5}'})
        assert values == {
            "learning_rate": 1e-4,
            "bf16": False,
            "report_to": ["none"],
            "generation_kwargs": {"top_k": 5},
        }
        assert resolved(cls, values) == values
    with pytest.raises(BadInputError, match="at least 2 generations"):
        build(GRPOConfig, {"num_generations": 1, "bf16": False, "use_cpu": True})


def test_reading_a_config_imports_nothing_heavy() -> None:
    code = "import sys, distillknob.config.recipe; print({'torch', 'transformers', 'trl', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
