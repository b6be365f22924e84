"""What the tests of a suspect and a reference show, in a word and a sentence, and what that doesn't mean."""

from __future__ import annotations

from collections.abc import Sequence

from distillknob.fingerprints.radioactivity import binomial_tail
from distillknob.results.fingerprint import Finding, FingerprintTest, SuspectRow

# An alarm under keys that nobody used is as frequent as `alpha` says, give or take: beyond twice that, with a chance
# below this, the test is broken.
_BROKEN = 1e-3


def deciding(row: SuspectRow, access: str) -> FingerprintTest:
    """The test of a model that decides: that of the access declared before."""
    return next(test for test in row["tests"] if test["test"] == access)


def finding(rows: Sequence[SuspectRow], *, access: str, alpha: float, keys: int, key: str) -> tuple[Finding, str]:
    """What the tests show: a word, and a sentence. `rows` are the student and perhaps a reference."""
    by_part = {row["part"]: deciding(row, access) for row in rows}
    student, reference = by_part["student"], by_part.get("reference")
    what = "answers" if access == "text" else "next-token distributions"
    units = "pairs of tokens" if access == "text" else "windows"
    for part, test in by_part.items():
        alarms = round(test["false_alarms"] * keys)
        if binomial_tail(alarms, keys, min(1.0, 2 * alpha)) < _BROKEN:
            return "can't tell", (
                f"{alarms} of {keys} keys that nobody used are found in the {part}'s {what}, at a level of {alpha:g}: "
                "the test doesn't hold what it promises here."
            )
    if reference is not None and reference["p"] <= alpha:
        return "can't tell", (
            f"the reference carries the mark of key {key}, too (p = {shown(reference['p'])}): it was distilled from "
            "this teacher as well, or text with the key's mark is public. Take another reference."
        )
    if student["p"] <= alpha:
        beside = "" if reference is None else f", and the reference's don't (p = {shown(reference['p'])})"
        return "marked", (
            f"p = {shown(student['p'])}: the student's {what} carry the mark of key {key}{beside}. A model that never "
            f"met the key looks so with a chance of at most {alpha:g}. By whom it was trained on marked text, and "
            "whether it was from the teacher itself or from a student of it, the mark doesn't say."
        )
    if access == "text" and student["detectable"] is None:
        return "can't tell", (
            f"{student['n']} {units} are too few: even if all were green, p would stay above {alpha:g}. Sample more "
            "problems, or longer answers."
        )
    seen = (
        ""
        if student["detectable"] is None
        else f" A share of green from {100 * student['detectable']:.1f} % on would "
        f"have shown (it is {100 * student['green']:.1f} %)."
    )
    return "no sign", (
        f"p = {shown(student['p'])}: no sign of the mark of key {key} in {student['n']} {units}.{seen} That doesn't "
        "clear the student: too few marked answers among its data, other prompts, or answers that were rewritten or "
        "selected before it learnt from them leave no sign either."
    )


def shown(p: float) -> str:
    """A p-value in words of the terminal."""
    return "0 to the last digit" if p == 0 else f"{p:.2g}"
