"""One verdict of the gate drives its text, its JSON and its exit status, and nothing but evidence makes it pass."""

from __future__ import annotations

import itertools
import json
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from commands import command
from distillknob.gates.gate import STATUS, gate
from distillknob.publishing.marks import BEGIN, END
from distillknob.runs.records import UNKNOWN
from gated import NEVER, alter, change_weights, judged, of_arms, policy, told, utility, verdict, without
from planted_attacks import ATTACKERS, Change, arms_of, attack_run, recovers, share
from result_types import all_types, faults


def test_a_teacher_that_keeps_to_the_policy_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = attack_run(tmp_path / "run")
    assert command("gate", run, "--policy", policy(tmp_path), "--target", "eta+0.5") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("PASS: eta+0.5")
    assert "At the tier text · 128× queries · labels, no attack of standard-v1 recovered more than 20.00 %" in out
    assert "the controls and the attacks on the original, by which R is measured, may rest on fewer" in out
    assert "by the tier" not in out and "gkd" not in out, "an attack beyond the tier says nothing at it"
    result = json.loads((run / "gate.json").read_text())
    assert (result["verdict"], result["status"]) == ("pass", 0)
    assert list(faults(result, all_types()["GateResult"])) == []
    assert any(name.endswith("eta+0.5") for name in result["bound_to"]) and "task math" in result["bound_to"]
    assert NEVER not in out + (run / "gate.json").read_text()


BREACHES = {
    "more recovered": recovers("selected-128", 0.30, 0.60),
    "by an attack that isn't the worst": recovers("answers", 0.2501, 0.3),
    "utility": utility(-0.05, -0.016),
}
OPEN: dict[str, Change] = {
    "the interval holds the limit": recovers("selected-128", 0.20, 0.30),
    "utility isn't resolved": utility(-0.02, 0.01),
    "utility without an interval": utility(None, None),  # type: ignore[arg-type]
    "refused": alter("refused", "a planted test failed"),
    "planted test": alter("planted.0.passed", False),
    "no planted test": alter("planted", []),
    "a missing attack": without("selected-128"),
    "one attacker less": lambda result: result.update(arms=arms_of(result, attacker=ATTACKERS[0])),
    "a failed attack": of_arms("traces", state="failed", reason="out of memory"),
    "a failed attack that wasn't asked for": of_arms("selected-8", state="failed", reason="out of memory"),
    "an attack without traces": of_arms("traces", state="nothing to train on", reason="none was right"),
    "R undefined": of_arms("traces", by_tier={}),
    "R undefined at the tier alone": of_arms("traces", by_tier={"on_policy": share(0.0, 0.1)}),
    "R without bounds": of_arms("traces", by_tier={"text": {**share(0.0, 0.1), "simultaneous": [None, None]}}),
    "few seeds of the worst": of_arms("selected-128", seeds=[0]),
    "another suite": alter("suite.name", "quick-v1"),
    "irrelevant": verdict("irrelevant"),
    "can't tell": verdict("can't tell"),
    "no verdict": alter("worst", []),
    "weights that nobody sees": alter("targets.1.weights", {"weights": UNKNOWN}),
    "weights that were not read": alter("targets.1.model", "elsewhere"),
}
DAMAGED: dict[str, Change] = {
    "a row without a key": lambda result: result["arms"][0].pop("by_tier"),
    "a row of another type": alter("arms", 7),
    "an interval that is none": of_arms("traces", by_tier={"text": {**share(0.0, 0.1), "simultaneous": [1]}}),
    "text for a number": of_arms("traces", by_tier={"text": {**share(0.0, 0.1), "recovered": "0.1"}}),
    "a share that is none": of_arms("traces", by_tier={"text": 0.1}),
    "a spec that is no text": alter("targets.2.spec", None),
    "an interface that isn't one": alter("arms.0.access", {"interface": "txt", "queries": 1, "clean": 0, "labels": 0}),
    "no suite": alter("suite", None),
    "no result": lambda result: result.clear(),
}
CASES = {
    **{f"breach: {name}": (change, 1) for name, change in BREACHES.items()},
    **{f"open: {name}": (change, 2) for name, change in OPEN.items()},
    **{f"damaged: {name}": (change, 3) for name, change in DAMAGED.items()},
}


@pytest.mark.parametrize("name", CASES)
def test_text_json_and_exit_status_agree(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, status = CASES[name]
    run = attack_run(tmp_path / "run", change)
    words = ["gate", run, "--policy", policy(tmp_path), "--target", "eta+0.5"]
    assert command(*words) == status
    text = capsys.readouterr().out
    assert command(*words, "--json") == status
    result = json.loads(capsys.readouterr().out)
    assert result["status"] == status == STATUS[result["verdict"]]
    assert text.startswith(f"{result['verdict'].upper()}: ")
    assert list(faults(result, all_types()["GateResult"])) == []
    assert json.loads((run / "gate.json").read_text())["verdict"] == result["verdict"]
    assert NEVER not in text
    if status in (1, 2):
        assert any(row["outcome"] == result["verdict"] for row in result["checks"]), "a verdict has a reason"


ENDS = [-0.3, 0.1, 0.25, 0.2500001, 0.9]


@pytest.mark.parametrize(("low", "high"), [pair for pair in itertools.product(ENDS, ENDS) if pair[0] <= pair[1]])
def test_bounds_at_the_limit_decide(tmp_path: Path, low: float, high: float) -> None:
    result = judged(attack_run(tmp_path / "run", recovers("selected-128", low, high)))
    wanted = "breach" if low > 0.25 else "pass" if high <= 0.25 else "not enough evidence"
    assert result["verdict"] == wanted, told(result)
    assert result["upper"] == max(high, 0.14)  # that of selected-32


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (-0.015, 0.0, "pass"),
        (-0.0150001, 0.0, "not enough evidence"),
        (-0.02, -0.015, "not enough evidence"),
        (-0.02, -0.0150001, "breach"),
        (0.01, 0.02, "pass"),
    ],
)
def test_utility_at_the_limit_decides(tmp_path: Path, low: float, high: float, wanted: str) -> None:
    assert judged(attack_run(tmp_path / "run", utility(low, high)))["verdict"] == wanted


def test_a_breach_stands_though_something_is_missing_but_not_where_the_suite_has_no_teeth(tmp_path: Path) -> None:
    broken = recovers("selected-128", 0.5, 0.6)
    assert judged(attack_run(tmp_path / "a", broken, without("traces")))["verdict"] == "breach"
    toothless = attack_run(tmp_path / "b", broken, alter("planted.0.passed", False))
    assert judged(toothless)["verdict"] == "not enough evidence"


@pytest.mark.parametrize(
    ("changes", "wanted", "reason"),
    [
        ({"attacks": ["selected-129"]}, 2, "standard-v1 has no such attack, did you mean 'selected-128'"),
        ({"attacks": ["gkd"]}, 2, "needs more than the tier allows"),
        ({"attackers": 3}, 2, "the policy asks for 3"),
        ({"seeds": 4}, 2, "the policy asks for 4 of the worst attack"),
        ({"seeds": 3}, 0, ""),
        ({"tier": {"interface": "text", "queries": 256, "labels": True}}, 2, "no attack asked more than 128× queries"),
        ({"tier": {"interface": "prefill", "queries": 128, "labels": True}}, 2, "no attack used text whose beginning"),
        ({"tier": {"interface": "text", "queries": 128, "clean": 0.5, "labels": True}}, 2, "50 % public solutions"),
        ({"tier": {"interface": "text", "queries": 1, "labels": True}}, 2, "no attack used the final answers"),
        ({"tier": {"interface": "on_policy", "queries": 128, "labels": True}, "attacks": ["gkd"]}, 1, "gkd by"),
        ({"tier": {"interface": "weights", "queries": 128, "labels": True}, "attacks": ["gkd"]}, 2, "has no tier of"),
        (
            {"tier": {"interface": "text", "queries": 64, "labels": True}},
            2,
            "its tiers are text (text · 128× queries · labels); on_policy",
        ),
        ({"largest_recovered": 0.2}, 0, ""),
        ({"largest_recovered": 0.19}, 2, "More problems or seeds decide"),
    ],
)
def test_what_the_policy_asks_for(tmp_path: Path, changes: dict[str, Any], wanted: int, reason: str) -> None:
    result = judged(attack_run(tmp_path / "run"), **changes)
    assert result["status"] == wanted, told(result)
    assert reason in told(result)


def lacks(run: Path, *attacks: str, **changes: Any) -> dict[str, Any]:
    """The rows of the attacks that the policy asks for and the run doesn't have."""
    rows = judged(run, attacks=["traces", *attacks], **changes)["checks"]
    return {
        row["check"].removeprefix("attack "): row for row in rows if row["check"].removeprefix("attack ") in attacks
    }


def test_an_attack_that_exists_and_was_not_run_is_told_so_with_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = attack_run(tmp_path / "run", recorded={"suite": "standard-v1", "planted": True})
    rows = lacks(run, "hinted", "selected-33", "hot", "solo", "deciphered")
    command_shown = shlex.split(rows["hinted"]["command"])
    assert rows["hinted"]["reason"] == f"it wasn't run in {run}"
    assert command_shown[:4] == ["distillknob", "attack", "--config", f"{run}/config.yaml"]
    at = command_shown.index("--attacks")
    # Those of the suite that were run, in its order, and those that are asked for; what was run of no suite can't be.
    assert command_shown[at + 1 :] == [
        *("answers", "hinted", "selected-8", "selected-32", "selected-128", "hot"),
        *("--output", f"{run}-again"),
    ]
    assert "--suite" not in command_shown and "--planted" not in command_shown
    assert rows["hot"]["reason"] == f"it wasn't run in {run}" and "command" not in rows["hot"]
    assert rows["selected-33"]["reason"].startswith(
        "standard-v1 has no such attack, did you mean 'selected-32'? It has"
    )
    assert "as a control" in rows["solo"]["reason"] and "planted defences alone" in rows["deciphered"]["reason"]
    assert not any("did you mean" in row["reason"] for name, row in rows.items() if name != "selected-33")
    file = policy(tmp_path, attacks=["traces", "hinted", "hot"])
    assert command("gate", run, "--policy", file, "--target", "eta+0.5") == 2
    lines = capsys.readouterr().out.splitlines()
    assert f"    {rows['hinted']['command']}" in lines, "a command is copied in one line"


@pytest.mark.parametrize(
    ("recorded", "words"),
    [
        ({"suite": "quick-v1", "planted": False}, {"--suite", "standard-v1", "--planted"}),
        ({"suite": "a file that has gone.yaml"}, {"--suite", "standard-v1"}),
        ({}, {"--suite", "standard-v1"}),
    ],
)
def test_the_command_attacks_by_the_policy_s_suite(tmp_path: Path, recorded: Any, words: set[str]) -> None:
    rows = lacks(attack_run(tmp_path / "my run", recorded=recorded), "hinted")
    assert words <= set(shlex.split(rows["hinted"]["command"]))
    assert ("--planted" in shlex.split(rows["hinted"]["command"])) == ("--planted" in words)
    assert f"{tmp_path}/my run-again" in shlex.split(rows["hinted"]["command"])


@pytest.mark.parametrize("there", [True, False])
def test_a_suite_of_one_s_own_is_looked_into_where_it_is_there(tmp_path: Path, there: bool) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nattacks: {traces: {}, hintful: {}}\n" if there else "name: [")
    own = alter("suite", {"name": "mine", "sha256": "ab" * 32, "about": "mine"})
    run = attack_run(tmp_path / "run", own, recorded={"suite": str(file)})
    rows = lacks(run, "hintful", "tracks", suite="mine")
    assert ("command" in rows["hintful"]) == there
    assert "mine has no such attack, did you mean 'traces'" in rows["tracks"]["reason"]


def test_reasons_stand_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, changes in enumerate(([recovers("selected-128", 0.5, 0.6), utility(-0.02, 0.01)], [utility(-0.02, 0)])):
        run, card = attack_run(tmp_path / str(number), *changes), tmp_path / f"{number}.md"
        words = ["gate", run, "--policy", policy(tmp_path), "--target", "eta+0.5", "--card", card]
        assert command(*words) == (1, 2)[number]
        shown, result = " ".join(capsys.readouterr().out.split()), json.loads((run / "gate.json").read_text())
        open_ones = [row for row in result["checks"] if row["outcome"] != "pass"]
        assert len(open_ones) == (3, 1)[number]
        lines = card.read_text().splitlines()
        for row in open_ones:
            assert shown.count(row["reason"]) == 1 and row["reason"] not in result["means"]
            assert sum(row["reason"] in line and line.startswith("- ") for line in lines) == 1
        assert max(map(len, lines)) < 300, "no paragraph of reasons"


def test_attacks_that_recover_less_need_no_further_seeds(tmp_path: Path) -> None:
    def once(result: dict[str, Any]) -> None:
        for row in arms_of(result, attacker=ATTACKERS[1]):
            row["seeds"] = [0]
            for at_tier in row["by_tier"].values():
                at_tier["recovered"] -= 0.01
        for row in result["worst"]:
            if row["attacker"] == ATTACKERS[1]:
                row |= {"seeds": 1, "recovered": row["recovered"] - 0.01}

    assert judged(attack_run(tmp_path / "run", once))["verdict"] == "pass"


def test_a_smaller_tier_s_doubt_says_nothing_at_a_larger(tmp_path: Path) -> None:
    def doubtful(result: dict[str, Any]) -> None:
        row = dict(result["worst"][0])
        row |= {"access": {**row["access"], "queries": 1.0}, "tier": "once", "verdict": "can't tell"}
        result["worst"].append(row)

    assert judged(attack_run(tmp_path / "run", doubtful))["verdict"] == "pass"


@pytest.mark.parametrize(("days", "wanted"), [(0.0, 0), (179.9, 0), (180.1, 2), (-5.0, 2)])
def test_an_old_run_is_no_evidence(tmp_path: Path, days: float, wanted: int) -> None:
    run = attack_run(tmp_path / "run")
    started = datetime.fromisoformat(json.loads((run / "environment.json").read_text())["started"])
    result = gate(policy(tmp_path), run, "eta+0.5", now=started + timedelta(days=days))
    assert result["status"] == wanted, told(result)


def test_an_attack_in_several_tiers_is_judged_by_the_gap_of_the_policy_s(tmp_path: Path) -> None:
    """At the tier of answers alone `answers` is measured by another gap."""

    def several(text: Any, answers: Any) -> Change:
        def change(result: dict[str, Any]) -> None:
            for row in arms_of(result, attack="answers"):
                row |= {"recovered": answers["recovered"], "simultaneous": answers["simultaneous"]}
                row["by_tier"] = {"answers": answers, "text": text}

        return change

    low, high = share(0.0, 0.1), share(0.5, 0.6)
    result = judged(attack_run(tmp_path / "high", several(text=high, answers=low)))
    assert result["status"] == 1 and "answers by zoo:student: [50.00, 60.00]" in told(result)
    assert (result["figures"][0]["attack"], result["figures"][0]["recovered"]) == ("answers", 0.55)
    assert judged(attack_run(tmp_path / "low", several(text=low, answers=high)))["status"] == 0


@pytest.mark.parametrize(
    ("states", "wanted", "reason"),
    [
        (("done", "failed"), 2, "attack traces: failed by zoo:student-other: out of memory"),
        (("failed", "done"), 2, "attack traces: failed by zoo:student: out of memory"),
        (("done", "nothing to train on"), 2, "attack traces: nothing to train on by zoo:student-other"),
        (("done", "not applicable"), 0, ""),
        (("not applicable", "not applicable"), 2, "attack traces: not applicable by zoo:student: "),
        (("failed", "not applicable"), 2, "attack traces: failed by zoo:student: out of memory; not applicable"),
    ],
)
def test_an_attack_that_is_asked_for_is_done_by_every_attacker_to_whom_it_applies(
    tmp_path: Path, states: tuple[str, str], wanted: int, reason: str
) -> None:
    def change(result: dict[str, Any]) -> None:
        for attacker, state in zip(ATTACKERS, states, strict=True):
            for row in arms_of(result, attack="traces", attacker=attacker):
                row |= {"state": state, "reason": None if state == "done" else "out of memory"}

    result = judged(attack_run(tmp_path / "run", change))
    assert result["status"] == wanted, told(result)
    assert reason in told(result)


def test_a_target_that_is_not_named_or_not_there(tmp_path: Path) -> None:
    run = attack_run(tmp_path / "run")
    assert "2 targets beside the original" in judged(run, target=None)["means"]
    result = judged(run, target="eta+0.4")
    assert result["status"] == 3 and "did you mean 'eta+0.5'" in result["means"]
    one = attack_run(tmp_path / "one", lambda result: result["targets"].pop())
    assert judged(one, target=None)["target"] == "eta+0.5"


def test_bad_input_is_3_and_no_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, file = attack_run(tmp_path / "run"), policy(tmp_path)
    assert command("gate", run, "--polcy", file) == 3
    assert command("gate", run) == 3
    assert command("gate", tmp_path / "nowhere", "--policy", file) == 3
    assert command("gate", run, "--policy", tmp_path / "no.yaml") == 3
    assert command("gate", run, "--policy", policy(tmp_path / "bad", seeds=0)) == 3
    assert command("gate", run, "--policy", file, "--output", run) == 3
    assert command("gate", run, "--policy", file, "--card", "-", "--json") == 3
    capsys.readouterr()


def test_an_attack_that_goes_on_is_no_evidence_and_another_stage_is_no_attack(tmp_path: Path) -> None:
    run = attack_run(tmp_path / "run")
    (run / "manifest.json").unlink()
    assert judged(run)["status"] == 2
    (run / "config.yaml").write_text("evaluate: {k: 4}\n")
    assert judged(run)["status"] == 3


def test_a_card_gets_one_section_which_the_next_verdict_replaces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, card = attack_run(tmp_path / "run"), tmp_path / "README.md"
    card.write_text("# My teacher\n\nIt does sums.\n")
    words = ["gate", run, "--policy", policy(tmp_path), "--target", "eta+0.5", "--card"]
    assert command(*words, card) == 0
    first = card.read_text()
    assert first.startswith("# My teacher\n\nIt does sums.\n") and "**Pass.** At the tier text" in first
    card.write_text(f"{first}\n## Licence\n")
    change_weights(run)
    assert command(*words, card) == 3
    second = card.read_text()
    assert second.count(BEGIN) == second.count(END) == 1 and "## Licence" in second
    assert "**Could not run.**" in second and "Pass" not in second
    capsys.readouterr()
    assert command(*words, "-") == 3
    assert BEGIN in capsys.readouterr().out
    card.write_text(first.replace(END, ""))
    assert command(*words, card) == 3
    assert "remove the damaged section" in capsys.readouterr().err


def test_the_time_of_the_verdict_is_now(tmp_path: Path) -> None:
    gated = datetime.fromisoformat(judged(attack_run(tmp_path / "run"))["gated"])
    assert datetime.now(UTC) - gated < timedelta(minutes=5)
