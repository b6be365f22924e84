"""The first minute: what `distillknob` alone says, its commands in groups, reports of bugs, completion in a shell."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from commands import command
from distillknob.cli.commands import COMMANDS
from distillknob.cli.completion import SHELLS
from distillknob.cli.env import HIDDEN, env_text, settings_shown
from distillknob.cli.welcome import GROUPS, NEXT
from distillknob.config.shipped import recipe_path
from distillknob.stages import STAGES

EVERY = {*STAGES, *COMMANDS, "completion"}


def test_alone_it_says_what_to_type_next(capsys: pytest.CaptureFixture[str]) -> None:
    assert command() == 0
    out = capsys.readouterr().out
    assert out.startswith("distillknob measures why") and out.count("\n    distillknob ") == 3
    assert "distillknob --help" in out and "distillknob env" in out
    assert max(map(len, out.splitlines())) <= 105


@pytest.mark.parametrize("line", NEXT)
def test_what_it_says_to_type_can_be_typed(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, name, *words = shlex.split(line)
    assert program == "distillknob" and name in EVERY
    assert command(name, *words, "--help") == 0
    if words and not words[0].startswith("-"):
        assert recipe_path(words[0]).exists()


def test_the_help_has_each_command_once_in_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    out = capsys.readouterr().out
    rows = re.findall(r"^  ([a-z]+)  +(\S.*)$", out, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(EVERY)
    assert all(text[0].islower() and len(text) < 90 for _, text in rows)
    assert rows[0][0] == "init" and all(f"{title}:\n" in out for title in GROUPS)


def test_a_group_names_only_commands_that_are_there_and_none_twice() -> None:
    names = [name for group in GROUPS.values() for name in group]
    assert set(names) <= EVERY and len(names) == len(set(names))


# Reports of bugs


def test_a_report_has_versions_machine_and_settings_and_says_what_is_missing() -> None:
    text = env_text({"OMP_NUM_THREADS": "3", "PATH": "/bin", "HF_DATASETS_CACHE": "/nowhere/at/all"})
    assert re.search(r"^- distillknob: \d+\.\d+\.\d+ \(", text, re.MULTILINE)
    assert re.search(r"^  - torch: 2\.", text, re.MULTILINE)
    missing = [name for name in ("vllm", "deepspeed") if importlib.util.find_spec(name) is None]
    assert all(f"  - {name}: not installed" in text for name in missing)
    assert re.search(r"^- memory: \d+\.\d GiB", text, re.MULTILINE) and "instruction sets" in text
    assert "  - OMP_NUM_THREADS=3" in text and "PATH=" not in text
    assert re.search(r"prepared data: /nowhere/at/all \(\d+ GiB free; not there yet\)", text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_TOKEN", "x"),
        ("HUGGINGFACE_HUB_TOKEN", "x"),
        ("VLLM_API_KEY", "x"),
        ("RAY_REDIS_PASSWORD", "x"),
        ("HF_HOME", "hf_abcdefghijklmnop"),
        ("HF_HUB_USER_AGENT_ORIGIN", "by sk-abcdefghijklmnop"),
        ("DISTILLKNOB_X", "a" * 48),
    ],
)
def test_what_could_be_a_secret_is_not_shown(name: str, value: str) -> None:
    assert settings_shown({name: value}) == {name: HIDDEN}


def test_what_is_no_secret_is_shown_without_a_login_and_the_user_s_name() -> None:
    shown = settings_shown(
        {
            "HF_ENDPOINT": "https://me:secret@mirror.example/hf",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HOME": f"{Path.home()}/caches/with/a/long/path/that/goes/on/and/on/for/more/than/forty/characters",
            "CUDA_VISIBLE_DEVICES": "0,1",
            "SECRET_PLANS": "x",
        }
    )
    assert "secret" not in str(shown) and "mirror.example" in shown["HF_ENDPOINT"]
    assert shown["TOKENIZERS_PARALLELISM"] == "false" and shown["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert shown["HF_HOME"].startswith("~/caches/with") and "SECRET_PLANS" not in shown


# Completion


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The script of each shell."""
    from distillknob.cli.completion import completion_script
    from distillknob.cli.main import whole_parser

    folder = tmp_path_factory.mktemp("completion")
    for shell in SHELLS:
        (folder / shell).write_text(completion_script(shell, whole_parser()), encoding="utf-8")
    return {shell: folder / shell for shell in SHELLS}


def completed(script: Path, *words: str) -> set[str]:
    """What bash offers for the last of the words."""
    line = " ".join(shlex.quote(word) for word in ("distillknob", *words))
    code = f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _shtab_distillknob; echo ${{COMPREPLY[@]}}"
    return set(subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_bash_completes_commands_settings_and_values(scripts: dict[str, Path]) -> None:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash here")
    assert completed(scripts["bash"], "") >= EVERY
    assert completed(scripts["bash"], "ca") == {"calibrate", "cache"}
    assert completed(scripts["bash"], "calibrate", "--max-s") == {"--max-steps"}
    assert completed(scripts["bash"], "calibrate", "--reward", "seq") == {"sequence", "sequence_mean"}
    assert "--adam_epsilon" not in completed(scripts["bash"], "calibrate", "--")
    assert completed(scripts["bash"], "recipe", "c") == {"copy"}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_takes_its_script(shell: str, scripts: dict[str, Path]) -> None:
    text = scripts[shell].read_text(encoding="utf-8")
    assert "calibrate" in text and ("--eta" in text or "-l eta" in text)
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n", str(scripts[shell])], check=True)


def test_neither_the_greeting_nor_a_report_s_module_loads_what_is_heavy() -> None:
    heavy = {"torch", "transformers", "trl", "datasets", "numpy", "shtab", "huggingface_hub"}
    code = f"import sys; from distillknob.cli.main import main; main([]); print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
