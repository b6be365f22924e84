"""The terminal tells each verdict in a sentence, the attacks by what they recovered, and the doubts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distillknob.cli.text import result_text
from distillknob.runs.run import load_run
from planted_attacks import Change, arms_of, attack_run


def told(tmp_path: Path, *changes: Change) -> str:
    return result_text(load_run(attack_run(tmp_path / "run", *changes)))


def test_each_verdict_has_a_sentence_and_the_attacks_are_sorted(tmp_path: Path) -> None:
    text = told(tmp_path)
    running = " ".join(text.split())
    assert running.count("at the tier text (text · 128× queries · labels), against") == 4
    assert "the worst attack, selected-128, recovers 14 % [9, 19] of what the original teaches, for 76800" in running
    lines = [line for line in text.splitlines() if line.startswith(("nasty, ", "eta+0.5, "))]
    assert lines[0].startswith("nasty, gkd") and "95.0 [89.0, 101.0]" in lines[0] and len(lines) == 20
    assert "4 more attacks stand on the page." in text
    assert "! eta+0.5: answers above traces" in text
    assert text.endswith("report.html")


def test_a_refused_attack_tells_why_and_no_verdict(tmp_path: Path) -> None:
    def refuse(result: dict[str, Any]) -> None:
        result |= {"refused": "the suite didn't find spam", "worst": []}
        result["planted"][0]["passed"] = False

    text = told(tmp_path, refuse)
    assert text.startswith("No verdicts: the suite didn't find spam.")
    assert "! planted undefended: recovers all" in text and "protects" not in text


def test_what_failed_is_told(tmp_path: Path) -> None:
    def fail(result: dict[str, Any]) -> None:
        result["failed"] = [{"cell": "nasty-gkd-0", "reason": "out of memory"}]
        for row in arms_of(result, target="nasty"):
            row |= {"state": "failed", "recovered": None, "score": None, "cost": None, "finished_rate": None}

    text = told(tmp_path, fail)
    assert "! failed: nasty-gkd-0: out of memory" in text
    assert next(line for line in text.splitlines() if line.startswith("nasty, ")).count("failed") == 1


def test_the_original_is_no_defence_that_broke(tmp_path: Path) -> None:
    def attacked_original(result: dict[str, Any]) -> None:
        result["worst"].append({**result["worst"][0], "target": "original", "verdict": "broken", "recovered": 1.0})

    assert "original: at the tier" not in told(tmp_path, attacked_original)


def test_a_run_without_an_attack_has_a_text(tmp_path: Path) -> None:
    assert told(tmp_path, lambda result: result.update(arms=[], worst=[])).startswith("No verdicts: no attack")
