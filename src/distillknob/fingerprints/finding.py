"""What the tests of a suspect and a reference show, in a word and a sentence, and what that doesn't mean."""

from __future__ import annotations

from collections.abc import Sequence

from distillknob.fingerprints.config import FingerprintConfig
from distillknob.fingerprints.radioactivity import binomial_tail
from distillknob.results.fingerprint import Finding, FingerprintTest, SuspectRow

# An alarm under keys that nobody used is as frequent as `alpha` says, give or take: beyond twice that, with a chance
# below this, the test is broken.
_BROKEN = 1e-3


def finding(rows: Sequence[SuspectRow], config: FingerprintConfig, key: str) -> tuple[Finding, str]:
    """What the tests show: a word, and a sentence. `rows` are the student and perhaps a reference; the config's access
    says which of their tests decides, and `key` how the key is called."""
    alpha = config.alpha
    by_part = {row["part"]: _deciding(row, config.access) for row in rows}
    student, reference = by_part["student"], by_part.get("reference")
    what, units = ("answers", "pairs") if config.access == "text" else ("next-token distributions", "windows")
    for part, test in by_part.items():
        alarms = round(test["false_alarms"] * config.keys)
        if binomial_tail(alarms, config.keys, min(1.0, 2 * alpha)) < _BROKEN:
            return "can't tell", (
                f"{alarms} of {config.keys} keys that nobody used are found in the {part}'s {what}, at a level of "
                f"{alpha:g}: the test doesn't hold what it promises here."
            )
    if reference is not None and reference["p"] <= alpha:
        return "can't tell", (
            f"the reference carries the mark of key {key}, too ({_shown(reference)}): it was distilled from this "
            "teacher as well, or text with the key's mark is public. Take another reference."
        )
    if student["p"] <= alpha:
        beside = "" if reference is None else f", and the reference's don't ({_shown(reference)})"
        return "marked", (
            f"{_shown(student)}: the student's {what} carry the mark of key {key}{beside}. A model that never met the "
            f"key looks so with a chance of at most {alpha:g}. By whom it was trained on marked text, and whether that "
            "was the teacher's own or a student's of it, the mark doesn't say."
        )
    if config.access == "text" and config.share ** student["n"] > alpha:
        return "can't tell", (
            f"{student['n']} {units} of tokens are too few: even all green, they'd be no sign at a level of {alpha:g}. "
            "Sample more problems, or longer answers."
        )
    return "no sign", (
        f"{_shown(student)}: no sign of the mark of key {key} in {student['n']} {units}. That doesn't clear the "
        "student: too few marked answers among its data, other prompts, or answers that were rewritten or selected "
        "before it learnt from them leave no sign either."
    )


def _deciding(row: SuspectRow, access: str) -> FingerprintTest:
    return next(test for test in row["tests"] if test["test"] == access)


def _shown(test: FingerprintTest) -> str:
    return f"p = {test['p']:.2g}, z = {test['z']:+.1f}"
