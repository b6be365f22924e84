"""One verdict of the gate drives its text, its JSON and its exit status, and nothing but evidence makes it pass."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shlex
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from commands import command
from distillknob.defences.choice import DEFENCES
from distillknob.gates.gate import STATUS, gate
from distillknob.inputs.identity import read_by
from distillknob.publishing.marks import BEGIN, END
from distillknob.runs.records import UNKNOWN
from planted_attacks import ATTACKERS, Change, arms_of, attack_run, checkpoint, named, recovers, share
from result_types import all_types, faults

POLICY: dict[str, Any] = {
    "suite": "standard-v1",
    "tier": {"interface": "text", "queries": 128, "labels": True},
    "largest_recovered": 0.25,
    "smallest_utility": -0.015,
    "attacks": ["traces", "selected-128"],
    "attackers": 2,
}
NEVER = "undistillable"


def policy(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    file = folder / "policy.yaml"
    file.write_text(yaml.safe_dump({**POLICY, **changes}))
    return file


def judged(run: Path, *, target: str | None = "eta+0.5", **changes: Any) -> Any:
    return gate(policy(run.parent, **changes), run, target)


def told(result: Any) -> str:
    return "; ".join(f"{row['check']}: {row['reason']}" for row in result["checks"] if row["outcome"] != "pass")


def alter(path: str, value: Any) -> Change:
    """Set what lies at `path` in the result, such as `suite.name`."""
    *inside, last = path.split(".")

    def change(result: dict[str, Any]) -> None:
        place: Any = result
        for key in inside:
            place = place[int(key) if key.isdigit() else key]
        place[last] = value

    return change


def of_arms(attack: str, **values: Any) -> Change:
    def change(result: dict[str, Any]) -> None:
        for row in arms_of(result, attack=attack):
            row |= values

    return change


def without(attack: str) -> Change:
    def change(result: dict[str, Any]) -> None:
        result["arms"] = [row for row in result["arms"] if row["attack"] != attack]

    return change


def utility(low: float, high: float) -> Change:
    def change(result: dict[str, Any]) -> None:
        for row in result["targets"]:
            if not row["original"]:
                row["utility"]["difference_interval"] = [low, high]

    return change


def verdict(word: str) -> Change:
    def change(result: dict[str, Any]) -> None:
        for row in result["worst"]:
            row["verdict"] = word

    return change


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


def change_weights(run: Path) -> None:
    (run.parent / "run-models" / "eta+0.5" / "config.json").write_text('{"model_type": "other"}')


def remove_weights(run: Path) -> None:
    (run.parent / "run-models" / "eta+0.5" / "model.safetensors").unlink()


def change_result(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    result["arms"][0]["simultaneous"] = [0.0, 0.0]
    (run / "result.json").write_text(json.dumps(result))


def remove_environment(run: Path) -> None:
    (run / "environment.json").unlink()


def spoil_manifest(run: Path) -> None:
    (run / "manifest.json").write_text("{}")


def empty_manifest(run: Path) -> None:
    (run / "manifest.json").write_text('{"files": {}}')


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (change_weights, "config.json has changed"),
        (remove_weights, "model.safetensors is gone"),
        (change_result, "result.json: changed"),
        (remove_environment, "environment.json: missing"),
        (spoil_manifest, "names no files"),
        (empty_manifest, "result.json: not in its manifest.json"),
    ],
)
def test_what_has_changed_since_cannot_be_gated(
    tmp_path: Path, harm: Any, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = attack_run(tmp_path / "run")
    words = ["gate", run, "--policy", policy(tmp_path), "--target", "eta+0.5"]
    assert command(*words) == 0
    harm(run)
    assert command(*words) == 3
    assert reason in " ".join(capsys.readouterr().out.split())
    assert json.loads((run / "gate.json").read_text())["verdict"] == "could not run", "a former pass doesn't stay"


def test_changed_data_cannot_be_gated_and_another_target_s_weights_may_go(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "{n} + 1", "reference": "{n + 1}"}}\n' for n in range(40)))
    run = attack_run(tmp_path / "run", tasks=[f"jsonl:{rows}"])
    (tmp_path / "run-models" / "nasty" / "config.json").write_text("{}")
    assert judged(run)["verdict"] == "pass"
    rows.write_text(rows.read_text().replace('"40"', '"41"'))
    result = judged(run)
    assert result["verdict"] == "could not run" and "rows.jsonl has changed" in result["means"]


def test_a_change_during_the_attack_cannot_be_gated(tmp_path: Path) -> None:
    def meanwhile(result: dict[str, Any]) -> None:
        (name,) = [key for key in result["read"] if key.endswith("eta+0.5")]
        result["read"][name] = {**result["read"][name], "config.json": "0" * 64}

    result = judged(attack_run(tmp_path / "run", meanwhile))
    assert result["verdict"] == "could not run" and "changed during the attack" in result["means"]


def test_another_suite_under_the_name_of_one_that_ships_cannot_be_gated(tmp_path: Path) -> None:
    run = attack_run(tmp_path / "run", alter("suite.sha256", "ab" * 32))
    for digest in (None, "ab" * 32):
        result = judged(run, suite_sha256=digest)
        assert result["status"] == 3 and "made by another standard-v1" in result["means"]
        assert "attack anew with --suite standard-v1" in result["means"]


@pytest.mark.parametrize(("digest", "wanted"), [(None, 0), ("ab" * 32, 0), ("cd" * 32, 3)])
def test_a_suite_of_one_s_own_is_held_to_the_policy_s_digest(tmp_path: Path, digest: str | None, wanted: int) -> None:
    own = alter("suite", {"name": "../suites/standard-v1", "sha256": "ab" * 32, "about": "mine"})
    result = judged(attack_run(tmp_path / "run", own), suite="../suites/standard-v1", suite_sha256=digest)
    assert result["status"] == wanted, result["means"]
    assert wanted == 0 or "than the policy's" in result["means"]


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


def wrapped(spec: str, *models: Path, key: Path | None = None) -> Change:
    """The target is a defence of this spec, and all these models are attackers' too."""

    def change(result: dict[str, Any]) -> None:
        row = next(row for row in result["targets"] if row["target"] == "eta+0.5")
        row |= {"spec": spec, "defence": "draws tokens from two models", "model": "zoo:teacher"}
        row["weights"] = named(result["read"], "model zoo:teacher")
        result["read"] |= read_by(SimpleNamespace(models_read=[str(model) for model in models], tasks=[], key_file=key))
        result["attackers"] += [str(model) for model in models]

    return change


def test_what_a_target_s_defence_reads_is_bound_though_it_is_an_attacker_s_model_too(tmp_path: Path) -> None:
    proxy, other, key = checkpoint(tmp_path / "proxy & co"), checkpoint(tmp_path / "other"), tmp_path / "key"
    key.write_text("secret")
    spec = f"green_list?delta=2&proxy={quote(str(proxy))}&key_file={quote(str(key))}"
    run = attack_run(tmp_path / "run", wrapped(spec, proxy, other, key=key))
    first = judged(run)
    assert first["verdict"] == "pass", first["means"]
    assert {f"model {proxy}", f"key {key}"} <= set(first["bound_to"]) and f"model {other}" not in first["bound_to"]
    shutil.rmtree(other)
    assert judged(run)["verdict"] == "pass"
    key.write_text("another")
    assert "key has changed" in judged(run)["means"]
    key.unlink()
    assert judged(run)["status"] == 3
    assert judged(run, target="nasty")["status"] == 1, "another target's key may go"
    key.write_text("secret")
    (proxy / "config.json").write_text("{}")
    result = judged(run)
    assert result["status"] == 3 and "config.json has changed" in result["means"]


def test_the_base_of_an_adapter_that_a_defence_reads_is_bound(tmp_path: Path) -> None:
    base, adapter = checkpoint(tmp_path / "base"), checkpoint(tmp_path / "adapter")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    run = attack_run(tmp_path / "run", wrapped(f"product_of_experts?proxy={quote(str(adapter))}", adapter, base))
    assert f"model {base}" in judged(run)["bound_to"]
    (base / "config.json").write_text("{}")
    assert judged(run)["status"] == 3


def test_what_a_defence_reads_by_default_ships_and_is_bound(tmp_path: Path) -> None:
    defaults = [name for cls in DEFENCES.values() for name in models_of(cls)]
    assert defaults and all(name.startswith("zoo:") for name in defaults)
    run = attack_run(tmp_path / "run", wrapped("product_of_experts?gamma=0.5"))
    assert f"model {ATTACKERS[0]}" in judged(run)["bound_to"]
    assert f"model {ATTACKERS[0]}" not in judged(run, target="nasty")["bound_to"]


def test_a_fetched_model_of_an_attacker_ships_with_nothing_and_is_not_bound(tmp_path: Path) -> None:
    def change(result: dict[str, Any]) -> None:
        wrapped("product_of_experts?gamma=0.5")(result)
        result["read"]["model zoo:smollm2"] = {"model.safetensors": "0" * 64}  # which no cache here holds
        result["attackers"] += ["zoo:smollm2"]

    bound_to = judged(attack_run(tmp_path / "run", change))["bound_to"]
    assert f"model {ATTACKERS[0]}" in bound_to and "model zoo:smollm2" not in bound_to


def models_of(cls: Any) -> list[str]:
    fields = [field for field in dataclasses.fields(cls) if field.metadata.get("names") == "model"]
    return [str(field.default) for field in fields if field.default]


def served(place: str) -> Change:
    """The original, or the target's rewriter, is behind a server, with a tokenizer from elsewhere."""

    def change(result: dict[str, Any]) -> None:
        result["read"]["model http://host:8000/v1#big"] = {"weights": UNKNOWN}
        name = "http://host:8000/v1#big#zoo:teacher"
        if place == "original":
            result["original"] = name
        else:
            wrapped(f"rewritten?rewriter={name}")(result)

    return change


@pytest.mark.parametrize("place", ["original", "rewriter"])
def test_weights_behind_a_server_are_no_evidence(tmp_path: Path, place: str) -> None:
    result = judged(attack_run(tmp_path / "run", served(place)))
    assert result["status"] == 2
    assert told(result) == (
        "weights: the weights of http://host:8000/v1#big are not known (a server shows none): attack with the folder "
        "that it serves"
    )


def external(folder: Path, digest: str, **changes: Any) -> str:
    row = {
        "weights": digest,
        "attack": "prefill-twice",
        "attacker": "another lab",
        "access": {"interface": "text", "queries": 64},
        "recovered": 0.5,
        "interval": [0.4, 0.6],
        "source": "a paper",
    }
    (folder / "others.json").write_text(json.dumps([{**row, **changes}]))
    return "others.json"


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, 1),
        ({"interval": [0.2, 0.3]}, 2),
        ({"interval": [-0.9, -0.8], "recovered": -0.85}, 0),
        ({"access": {"interface": "weights", "queries": 0}}, 0),
        ({"weights": "0" * 64}, 0),
        ({"interval": None}, 2),
        ({"interval": "wide"}, 3),
        ({"access": {"interface": "txt", "queries": 1}}, 3),
    ],
)
def test_results_of_others_can_only_raise_what_is_recovered(
    tmp_path: Path, changes: dict[str, Any], wanted: int
) -> None:
    run = attack_run(tmp_path / "run")
    result = json.loads((run / "result.json").read_text())
    (weights,) = [row["weights"] for row in result["targets"] if row["target"] == "eta+0.5"]
    digest = next(value for file, value in weights.items() if file.endswith("model.safetensors"))
    got = judged(run, external=[external(tmp_path, digest, **changes)])
    assert got["status"] == wanted, got["means"]
    assert wanted == 3 or got["upper"] >= 0.2


def test_results_of_others_that_are_not_there(tmp_path: Path) -> None:
    assert judged(attack_run(tmp_path / "run"), external=["nowhere.json"])["status"] == 3


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
