"""A teacher behind a server: which attacks are left out, and what the others ask of it, are told before anything is."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands import command, refused
from distillknob.attacks.base import NotApplicableError
from distillknob.attacks.config import AttackConfig
from distillknob.attacks.served import Asked, asked_lines, asked_of_servers, left_out
from distillknob.attacks.stage import attack
from distillknob.attacks.suite import read_suite
from distillknob.attacks.target import Target
from distillknob.attacks.work import Cell
from pairs import Pair
from planted_scene import PlantedScene
from test_attack_stage import RECIPE, SUITE

CHAT, COMPLETIONS = "http://127.0.0.1:9/v1/chat/completions#mine", "http://127.0.0.1:9/v1#mine#zoo:teacher"


def cells_on(name: str, suite: str = "standard-v1") -> list[Cell]:
    arms = read_suite(suite).arms.values()
    return [Cell(Target("original", name, name), arm, "zoo:student", 0, name) for arm in arms]


def out(name: str) -> set[str]:
    return {cell.arm.name for cell in cells_on(name) if cell.out_of_reach is not None}


def test_what_a_name_tells_of_the_reach() -> None:
    assert out("zoo:teacher") == set()
    weights = {cell.arm.name for cell in cells_on(CHAT) if cell.arm.attack.of_target == "weights"}
    assert {"gkd", "same-kl", "top-k", "undone", "pruned", "reinforced"} & set(
        read_suite("standard-v1").arms
    ) <= weights
    assert out(COMPLETIONS) == weights
    assert out(CHAT) - weights == {
        *("sure-tokens-8", "sure-tokens-32", "sure-tokens-128"),
        *("prefilled-1", "prefilled-8"),
    }


@pytest.mark.parametrize(
    "cell", [c for c in cells_on(CHAT) if c.arm.attack.of_target == "weights"], ids=lambda c: c.arm.name
)
def test_attacks_that_are_left_out_for_want_of_weights_could_not_be_mounted(
    cell: Cell, tiny_pair: Pair, tmp_path: Path
) -> None:
    """What is told beforehand is what each attack's own code says."""
    scene = PlantedScene(CHAT, tiny_pair.student, tmp_path, original_name=CHAT, base_name=tiny_pair.student)
    with pytest.raises(NotApplicableError):
        cell.arm.attack.student(scene)


def test_a_target_has_one_line_with_a_reason_for_each_kind() -> None:
    (line,) = left_out(cells_on(CHAT, "quick-v1"))
    assert line == (
        "original is behind a server; left out on it are prefilled (answers that others have begun are needed, which "
        "no chat interface gives); gkd (weights are needed, which no server shows)"
    )
    assert left_out(cells_on("zoo:teacher")) == []


def small(folder: Path, **changes: Any) -> AttackConfig:
    """The small suite, with attacks that ask by other ways than the common answers."""
    suite = copy.deepcopy(SUITE)
    suite["attacks"] |= {"instructed": {"kind": "instructed", "n": 3}, "prefilled": {"kind": "prefilled"}}
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    return AttackConfig(**{"suite": str(folder / "suite.yaml"), "teacher": CHAT, **changes}, recipe=RECIPE)


def test_a_server_is_asked_for_what_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    def post(self: Any, body: dict[str, Any]) -> Any:
        n = body.get("n", 1)
        if body["messages"][-1]["content"] != "Say yes.":  # by which connecting tries it
            asked.append(n)
        answer = {"message": {"role": "assistant", "content": "The answer is 4."}, "finish_reason": "stop"}
        return {"choices": [{"index": j, **answer} for j in range(n)]}

    monkeypatch.setattr("distillknob.models.served.chat.ServedChat._post", post)
    config = small(tmp_path, further_seeds=False)
    (counted,) = asked_of_servers(config.chosen_suite, config.first_cells(), config.targets, 1).values()
    run = attack(config, tmp_path / "run")
    assert counted == Asked(answers=sum(asked), requests=len(asked)) and counted.answers > 50
    rows = {row["attack"]: row for row in run.result["arms"]}
    assert rows["gkd"]["state"] == rows["prefilled"]["state"] == "not applicable"
    assert rows["gkd"]["reason"] == "weights are needed, which no server shows"
    assert "no chat interface gives" in rows["prefilled"]["reason"]
    assert rows["traces-2"]["state"] == "done" and rows["traces-2"]["cost"]["queries"] == 24
    told = capsys.readouterr().err
    assert "note: original is behind a server; left out on it are gkd, merged (weights" in told
    assert f"note: {CHAT} is asked for {counted.answers} answers in {counted.requests} requests: up to" in told


def test_attacks_within_reach_count_what_they_ask_for() -> None:
    suite = read_suite("quick-v1")
    target = Target("original", CHAT, CHAT)
    (asked,) = asked_of_servers(suite, cells_on(CHAT, "quick-v1"), [target], 1).values()
    assert asked == Asked(32 * 300 + 2 * 500, 300 + 500)
    of_two = asked_of_servers(suite, cells_on(CHAT, "quick-v1"), [target], 2)[CHAT]
    assert of_two == Asked(2 * asked.answers, 2 * asked.requests)
    assert asked_of_servers(suite, cells_on("zoo:teacher"), [Target("original", "zoo:teacher", "zoo:teacher")], 1) == {}
    sure = [cell for cell in cells_on(COMPLETIONS) if cell.arm.name == "sure-tokens-8"]
    assert asked_of_servers(suite, sure, [], 1) == {COMPLETIONS: Asked(8 * 300, 300, 8 * 300)}
    (line,) = asked_lines({"u": Asked(1200, 300, 600)}, 10, 20)
    assert line.startswith("u is asked for 1 200 answers in 300 requests, and to score up to 600 of them: up to 24 000")
    assert "about 3 000 tokens to read" in line and "1 200 requests and reads 12 000" in line
    assert "read" not in asked_lines({"u": Asked(1, 1)}, None, 20)[0]


def test_a_dry_run_lists_what_can_run_and_what_it_asks_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["attack", "quick", "--teacher", CHAT, "--output", tmp_path / "run", "--dry-run"]
    assert command(*words, "--attacks", "traces-1", "gkd", "prefilled", "--no-planted") == 0
    listed, *notes = [
        line
        for line in capsys.readouterr().out.splitlines()
        if re.match(r"note: |  cells +3: ", line) and "not looked at" not in line
    ]
    assert "traces-1" in listed and "gkd" not in listed and "prefilled" not in listed
    assert notes[0].startswith("note: original is behind a server; left out on it are ")
    assert "is asked for 1 300 answers in 800 requests" in notes[1]
    assert command(*words[:-1], "--teacher", "zoo:teacher", "--dry-run", "--attacks", "gkd", "--no-planted") == 0
    assert "server" not in capsys.readouterr().out


def test_an_attacker_s_model_is_trained_so_it_must_be_here(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--student", "--attackers", "--base"):
        told = refused(capsys, "attack", "quick", "--attacks", "traces-1", flag, CHAT, "--dry-run")
        assert "this needs the weights themselves" in told
