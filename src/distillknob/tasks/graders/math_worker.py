r"""The process that compares mathematical expressions: started by its path, in Python's isolated mode.

It imports nothing of distillknob's and nothing from the current folder: the folders of math-verify and of what that
needs are its arguments, behind the standard library. One question a line, one answer a line: "1" (equal), "0" (not
equal), "memory" (too large to say), or "error …", after which it ends.

math-verify rounds to six places after the point, which makes all tiny numbers one. Here numbers come as exact fractions
(math_equality.py), and what isn't rational is compared to `DIGITS` significant digits of the larger number.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
from dataclasses import replace
from types import TracebackType
from typing import Any

DIGITS = 40  # to which two constants must agree


def _report(kind: type[BaseException], value: BaseException, _: TracebackType | None) -> None:
    print("error", f"{kind.__name__}: {value}".replace("\n", " "), flush=True)


def _agree(first: Any, second: Any) -> bool:
    """Do two constants agree to `DIGITS` significant digits?"""
    first, second = first.evalf(DIGITS + 15), second.evalf(DIGITS + 15)
    if not (first.is_finite and second.is_finite):
        return bool(first == second)
    size = max(abs(first), abs(second))
    return bool(size == 0 or abs(first - second) <= size / 10**DIGITS)


def numerically_equal(first: Any, second: Any, float_rounding: int, numeric_precision: int) -> bool:
    """In the place of math-verify's function of the same arguments, without its absolute tolerance."""
    from math_verify.grader import get_pct_val, safe_sympy_doit

    if hasattr(first, "shape") or hasattr(second, "shape"):
        first, second = safe_sympy_doit(first), safe_sympy_doit(second)
        if getattr(first, "shape", None) != getattr(second, "shape", ()):
            return False
        return all(
            bool(a == b) or numerically_equal(a, b, float_rounding, numeric_precision)
            for a, b in zip(first.flat(), second.flat(), strict=True)
        )
    whole = [get_pct_val(side, side) for side in (first, second)]
    if all(side.is_Integer for side in whole):
        return bool(whole[0] == whole[1])  # 9 % for 9
    first, second = safe_sympy_doit(first), safe_sympy_doit(second)
    if first.is_Rational and second.is_Rational:
        return bool(first == second)
    return not first.free_symbols and not second.free_symbols and _agree(first, second)


def rounded(expressions: list[Any], digits: int, places: int) -> bool:
    """Is `digits` · 10^-`places` the constant, which is no integer, rounded to that place?"""
    for value in expressions:
        if getattr(value, "free_symbols", True) or not getattr(value, "is_real", False) or value.is_integer:
            continue
        shifted = value.evalf(len(str(digits)) + DIGITS) * 10 ** max(places, 0) / 10 ** max(-places, 0)
        if 2 * abs(shifted - digits) <= 1:
            return True
    return False


def serve(memory: int) -> None:
    """Answers until its standard input ends."""
    import math_verify.grader
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy import S
    from sympy.logic.boolalg import Boolean

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    logging.disable()  # what can't be parsed is an ordinary wrong answer
    math_verify.grader.sympy_numeric_eq = numerically_equal
    # Units are read before (math_units.py): math-verify leaves out whatever text ends a formula.
    normalization = replace(LatexExtractionConfig().normalization_config, units=False)
    latex = [LatexExtractionConfig(normalization_config=normalization)]

    def read(text: str) -> list[Any]:
        # The time is limited from outside: None turns off math-verify's own alarm. Without the fallback: it is what
        # could be cut out of a text that can't be parsed, and other texts may have it in common.
        return list(parse(f"${text}$", extraction_config=latex, fallback_mode="no_fallback", parsing_timeout=None))

    print("ready", flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            reference = read(question["reference"])
            if "rounded" in question:
                equal = rounded(reference, *question["rounded"])
            else:
                answer = read(question["answer"])
                # Two relations that hold nowhere, or everywhere, are true and false to sympy, and so the same.
                settled = any(
                    isinstance(side, Boolean) and side.doit() in (S.true, S.false) for side in (*reference, *answer)
                )
                equal = not settled and verify(reference, answer, timeout_seconds=None)
        except (MemoryError, RecursionError):
            print("memory", flush=True)
        except (TypeError, ValueError, ArithmeticError, AttributeError, NotImplementedError):
            print("0", flush=True)  # no number that could be rounded
        else:
            print(int(bool(equal)), flush=True)


if __name__ == "__main__":
    sys.excepthook = _report
    sys.path += sys.argv[2:]
    serve(int(sys.argv[1]))
