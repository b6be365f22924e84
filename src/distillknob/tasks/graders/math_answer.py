r"""Is a final answer the reference? What math-verify can't be asked, and what it leaves out.

Numbers, units, bases, brackets, words and chains of equations are read here; what is left, two expressions, goes to
math_equality.py. The rules, with an example of each, are in docs/reference/grading.md:

- A decimal counts as the number it says, against a decimal to its last digit. Against an exact reference that is no
  integer (a fraction, a root, π) it counts if it is correctly rounded to at least `SIGNIFICANT` digits.
- A number must be worked out: to a plain number, `2^{10}` is no answer, since the problem would often be its own
  solution.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from math import gcd

from distillknob.tasks.graders.math_equality import equal, is_rounding
from distillknob.tasks.graders.math_numbers import FRACTION, fraction_of, number_of, powers_of_ten
from distillknob.tasks.graders.math_spelling import cleaned
from distillknob.tasks.graders.math_structure import OR, Group, group_of, interval_of, relation_parts, split_top
from distillknob.tasks.graders.math_units import TEXT, conflict, split_unit

LONGEST = 600  # characters of an answer
SIGNIFICANT = 6  # digits to which a decimal stands for an exact number

UNWORKED = re.compile(
    r"[\d)}!]\s*(?:\+|-|\*|\\times|\\cdot|\\div)\s*[\d({\\]|[\d)}]\s*\^\s*\{?\s*[-\d(]|\d\s*!|[\d)]\s*\(|\)\s*\d"
    r"|\\(?:sqrt|binom|dbinom|tbinom|sum|prod|int|lim|log|ln|sin|cos|tan|gcd|lcm|max|min|lfloor|lceil|pmod|bmod|mod)"
    r"(?![A-Za-z])|\d\s*_"
)
QUOTIENT = re.compile(r"\\frac|\d\s*/\s*\d")
# What says more than a value, or less; also an unfinished sum.
HEDGES = re.compile(
    r"\b(?:if|when|whenever|otherwise|unless|except|not|or|maybe|perhaps|possibly|alternatively|approximately|about"
    r"|wrong|incorrect)\b|\\(?:ne|neq|pm|mp|lor|vee|ldots|dots|cdots|cancel|xcancel|bcancel|sout|to|quad|over|choose|atop)(?![A-Za-z])"
    r"|[-+*/^=]\s*$|\.\.\.",
    re.IGNORECASE,
)
# What stands before "=" or "∈" and only names the value.
NAME = re.compile(r"\\?[A-Za-z]+'?(?:_(?:\{\w+\}|\w))?(?:\([A-Za-z]\))?")
MEMBERSHIP = re.compile(rf"\s*{NAME.pattern}\s*(?:=|:=|\\in)\s*")
NAMES = rf"(?:{NAME.pattern}|\(\s*{NAME.pattern}\s*(?:,\s*{NAME.pattern}\s*)+\))"
NAMED = re.compile(rf"\s*{NAMES}\s*=\s*(?=\(|\[|\\\{{|\\langle)")
CAPITALS = re.compile(r"\\(Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Phi|Psi|Omega)(?![A-Za-z])")
# Scores, ranges and dates: no difference and no quotient.
HYPHENED = re.compile(r"\d+(?:\s*-\s*\d+)+|\d+(?:\s*/\s*\d+){2,}")
NO_VALUE = re.compile(r"(?:the )?empty set|no (?:real )?solution|(?:there (?:is|are) )no (?:real )?solution")
# What makes the side of an equation more than a name; indices and arguments apart.
TERM = re.compile(r"[-+*/^]|\\(?:frac|cdot|times|sqrt)(?![A-Za-z])|\d\s*[A-Za-z\\]")
WITHIN = re.compile(r"_\{[^{}]*\}|\([^()]*\)|\^\s*(?:\{\s*(?:-1|\*)\s*\}|\*)")
IN = re.compile(r"\\in(?![a-z])")
REALS = re.compile(r"^\(\s*-\s*\\infty\s*,\s*\+?\s*\\infty\s*\)$")
PUNCTURED = re.compile(r"\\mathbb\{R\}\s*(?:\\(?:setminus|backslash)(?![A-Za-z])|-)\s*\\?\{([^{}]*?)\\?\}")
BASE = re.compile(
    r"\(?\s*(?:\\text\s*\{\s*)?(?P<digits>[0-9A-Za-z]*\d[0-9A-Za-z]*)\s*\}?\s*\)?\s*"
    r"(?:_\s*\{?\s*(?:\\text\s*\{\s*)?(?P<index>\d+|[a-z]+)[\s}]*"
    r"|(?:\\text\s*\{)?\s*\(?\s*(?:in\s+)?base[\s}-]*(?P<named>\d+|[a-z]+)[\s)}]*)"
)
BASES = dict(zip("two three four five six seven eight nine ten eleven twelve".split(), range(2, 13), strict=True))
BASES["sixteen"] = 16
ENVIRONMENT = re.compile(r"\\begin\s*\{([A-Za-z]+)\*?\}")
KINDS = {"pmatrix": "matrix", "bmatrix": "matrix", "matrix": "matrix", "smallmatrix": "matrix", "array": "matrix"}
SPLIT_DIGITS = re.compile(r"\d\s+\d(?!\d*\s*/\s*\d)")  # 1 8, but 2 2/3
IN_TWO_UNITS = re.compile(r"\d\s*\\text\s*\{[^{}]*\}\s*\d")
WORDY = re.compile(r"[A-Za-z][A-Za-z' ,.-]*")


def same(answer: str, reference: str) -> bool:
    """Does a committed answer say what the reference says? Of an answer, at most `LONGEST` characters are compared.

    Raises RunFailedError where the checker doesn't work (math_equality.py).
    """
    answer, reference = cleaned(answer), cleaned(reference)
    if not answer or len(answer) > LONGEST or not reference:
        return False
    if answer == reference or _squeezed(answer) == _squeezed(reference):
        return True
    if not re.sub("[€£¥¢]", "", answer).isascii() or "$" in answer.strip("$ "):
        return False
    return _same(answer, reference)


def _squeezed(text: str) -> str:
    """Without the spaces that say nothing: those between words and between digits do."""
    if "\\text" in text or WORDY.fullmatch(text):
        return " ".join(text.split())
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


def _same(answer: str, reference: str) -> bool:
    based, base = BASE.fullmatch(answer), BASE.fullmatch(reference)
    if based is not None or base is not None:
        return base is not None and _same_base(based, base, answer)
    if HYPHENED.fullmatch(reference):
        return False  # as it stands, or not at all
    words = [_words(side) for side in (answer, reference)]
    for side, other in zip((answer, reference), reversed(words), strict=True):
        if side == "\\emptyset" and other is not None:
            return NO_VALUE.fullmatch(other) is not None
    if None not in words:
        return words[0] == words[1]
    if IN_TWO_UNITS.search(answer) and not IN_TWO_UNITS.search(reference) and group_of(reference) is None:
        return False
    right, right_unit = _parts(reference)
    several = None if number_of(right) is not None else group_of(reference)
    if several is not None and not several.single:
        return _same_value(answer, reference)  # its members may have units
    value, unit = _parts(answer)
    if unit is None or right_unit is None or conflict(unit, right_unit):
        return False
    percent = _exact(value) if unit == "%" else None
    if percent is not None and right_unit == "" and (number := _exact(right)) is not None:
        return number == percent / 100 or (number == percent and abs(percent) >= 1)
    if right_unit == "%" and unit == "" and (number := _exact(right)) is not None and _exact(value) == number / 100:
        return True
    return _same_value(value, right)


def _parts(text: str) -> tuple[str, str | None]:
    """Value and unit. A bare number has none; the e of 1e-7 isn't one."""
    bare = number_of(text) is not None and not re.search("[$€£¥]", text)
    return (text, "") if bare else split_unit(text)


def _exact(text: str) -> Fraction | None:
    """A number or a plain fraction, None where the text is neither or has thousands of digits."""
    number = number_of(text)
    if number is None:
        return fraction_of(text)
    return Fraction(number) if abs(number.adjusted()) < 5_000 else None


def _same_base(answer: re.Match[str] | None, reference: re.Match[str], text: str) -> bool:
    """The digits of the base that the reference names; an answer may leave the base out."""

    def of(match: re.Match[str]) -> tuple[str, str]:
        name = (match["index"] or match["named"]).casefold()
        return match["digits"].upper().lstrip("0"), str(BASES.get(name, name))

    if answer is not None:
        return of(answer) == of(reference)
    return re.sub(r"[\s()]|\\text\s*\{|\}", "", text).upper().lstrip("0") == of(reference)[0]


def _words(text: str) -> str | None:
    """Words in one spelling, None where the text isn't words alone: a formula's letters are a product."""
    inside = TEXT.sub(r"\1", text)
    marked = inside != text
    inside = inside.strip().strip("().\"'").strip()
    if not WORDY.fullmatch(inside) or (not marked and not re.search(r"[A-Za-z]{4}", inside)):
        return None
    return " ".join(word.removesuffix("s") for word in re.sub(r"[,.'-]", " ", inside).casefold().split())


def _same_value(answer: str, reference: str) -> bool:
    """Two answers without their units."""
    if _squeezed(answer) == _squeezed(reference):
        return True
    numbers = number_of(answer), number_of(reference)
    if numbers[1] is not None and numbers[0] is None:
        numbers = number_of(answer, decimal_comma=True), numbers[1]
    if None not in numbers:
        return numbers[0] == numbers[1]
    fractions = fraction_of(answer), fraction_of(reference)
    if None not in fractions:
        return fractions[0] == fractions[1]
    if fractions[1] is not None:
        number = number_of(answer, decimal_comma=True)
        if (_exact(answer) if number is None else _exact(f"{number:f}")) == fractions[1]:
            return True
    answer = NAMED.sub("", answer) if group_of(reference) is not None else answer
    answer, reference = (REALS.sub(r"\\mathbb{R}", side) for side in (answer, reference))
    answer, reference = _punctured(answer), _punctured(reference)
    if not IN.search(reference) and (member := MEMBERSHIP.match(answer)) is not None and IN.search(member[0]):
        collects = group_of(reference) is not None or interval_of(reference) is not None
        return collects and _same_value(answer[member.end() :], reference)
    if IN.search(reference) and (member := MEMBERSHIP.match(reference)) is not None and not IN.search(answer):
        reference = reference[member.end() :]
    if (of_relation := _as_intervals(answer, reference)) is not None:
        answer, reference = of_relation
    group, right = group_of(answer, listed=numbers[0] is None), group_of(reference, listed=numbers[1] is None)
    if right is None and group is not None and group.single and group.kind in ("()", "{}"):
        return "\\emptyset" not in answer and _same_value(group.items[0], reference)
    if group is None and right is not None and right.single and right.kind == "{}":
        return _same_value(answer, right.items[0])
    if group is not None or right is not None:
        return _same_groups(group, right)
    if [KINDS.get(kind, kind) for kind in ENVIRONMENT.findall(answer)] != [
        KINDS.get(kind, kind) for kind in ENVIRONMENT.findall(reference)
    ]:
        return False
    return _same_expression(answer, reference)


def _punctured(text: str) -> str:
    r"""ℝ∖{0} as the union of intervals that it is; any other text as it stands."""
    match = PUNCTURED.fullmatch(text.strip())
    if match is None:
        return text
    points = [(value, item.strip()) for item in match[1].split(",") if (value := _exact(item)) is not None]
    if len(points) != match[1].count(",") + 1:
        return text
    ends = ["-\\infty", *(item for _, item in sorted(points)), "\\infty"]
    return " \\cup ".join(f"({low},{high})" for low, high in pairwise(ends))


def _as_intervals(answer: str, reference: str) -> tuple[str, str] | None:
    """x ≥ 5 and [5, ∞), where one side is written as the one and the other as the other."""
    parts = [interval_of(part) for part in OR.split(answer)]
    if "\\cup" in reference and len(parts) > 1 and None not in parts:
        return " \\cup ".join(str(part) for part in parts), reference
    first, second = interval_of(answer), interval_of(reference)
    if first is not None and second is not None:
        names = [set(re.findall(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])", side)) for side in (answer, reference)]
        return (first, second) if names[0] == names[1] else None
    if (first is None) == (second is None):
        return None
    other = reference if first is not None else answer
    if (member := MEMBERSHIP.match(other)) is not None and IN.search(member[0]):
        other = other[member.end() :]
    if not re.match(r"\s*[(\[\]]", other):
        return None
    return (first, other) if first is not None else (other, second or "")


def _same_groups(answer: Group | None, reference: Group | None) -> bool:
    """Lists and sets in any order; points, intervals and closed brackets as they stand. A list without brackets may be
    the set of its members."""
    if reference is None or answer is None:
        return False
    kinds = {answer.kind, reference.kind}
    if len(kinds) > 1 and kinds != {"{}", ""}:
        return False
    if len(answer.items) != len(reference.items):
        return False
    if reference.ordered:
        return all(_same(a, b) for a, b in zip(answer.items, reference.items, strict=True))
    # Whether all name one unknown, or none: x = 1, y = 2 is another list than 1, 2.
    names = [{_name(item) for item in group.items} - {""} for group in (answer, reference)]
    if len(names[0]) > 1 and names[0] != names[1]:
        return False
    left = list(answer.items)
    for item in reference.items:
        match = next((other for other in left if _same(other, item)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _name(text: str) -> str:
    member = MEMBERSHIP.match(text)
    return re.sub(r"_\{?\d+\}?|[\s=]", "", member[0]) if member is not None else ""


def _same_expression(answer: str, reference: str) -> bool:
    """Two expressions, equations or relations."""
    if "\\approx" in answer and "\\approx" not in reference:
        return _same_approximation(answer, reference)
    value = answer
    if "=" not in reference:
        chain = _end_of_chain(answer)
        if chain is None:
            return False
        value = chain
        if value != answer:
            return _same(value, reference)
    elif (member := MEMBERSHIP.match(reference)) is not None and "=" not in answer:
        return _same(answer, reference[member.end() :])
    elif "=" not in answer:
        side, _, value_of_it = reference.partition("=")
        side = WITHIN.sub("", side)
        if TERM.search(side):
            return False  # an equation, where the answer is one side's value
        if "=" not in value_of_it and NAME.fullmatch(side.strip()):
            return _same(answer, value_of_it)
    named = [MEMBERSHIP.match(side) for side in (value, reference)]
    if named[0] and named[1] and "=" in named[0][0] and "".join(named[0][0].split()) == "".join(named[1][0].split()):
        return _same(value[named[0].end() :], reference[named[1].end() :])
    # math-verify leaves out primes, and takes Π for π.
    if value.count("'") != reference.count("'") or set(CAPITALS.findall(value)) != set(CAPITALS.findall(reference)):
        return False
    colons = [split_top(side, ":") for side in (value, reference)]
    if len(colons[0]) != len(colons[1]):
        if len(colons[1]) != 2 or len(colons[0]) != 1 or _is_clock(*colons[1]):
            return False
        return equal("/".join(f"({c})" for c in colons[1]), value)
    if len(colons[0]) > 1:
        return all(_same(a, b) for a, b in zip(*colons, strict=True))
    if (HEDGES.search(value) and not HEDGES.search(reference)) or SPLIT_DIGITS.search(value):
        return False
    number, decimal = number_of(reference), number_of(value)
    fraction = FRACTION.fullmatch(reference)
    if number is not None or fraction:
        if UNWORKED.search(powers_of_ten(value)) or IN_TWO_UNITS.search(value):
            return False
        if number is not None and "." not in reference and QUOTIENT.search(value):
            return False
    if relation_parts(value) != relation_parts(reference):
        return False
    for rounded, exact in ((decimal, reference), (number, value)):
        if rounded is not None and "." in (value if exact is reference else reference):
            return equal(reference, value) or (_digits(rounded) >= SIGNIFICANT and is_rounding(rounded, exact))
    return equal(reference, value)


def _is_clock(first: str, second: str) -> bool:
    """10:30 is a time: a ratio would be given in its lowest terms."""
    return first.isdecimal() and second.isdecimal() and len(second) == 2 and gcd(int(first), int(second)) != 1


def _digits(number: Decimal) -> int:
    """Significant digits, as written."""
    return len(str(int("".join(map(str, number.as_tuple().digits)) or "0")))


def _end_of_chain(text: str) -> str | None:
    """The last member of a chain of equations; None where its numbers contradict each other, `18 = 19`."""
    members = [member.strip() for member in split_top(text, "=")]
    if len(members) == 1:
        return text
    *before, last = members
    if not last:
        return None
    if len(members) == 2 and NAME.fullmatch(last) and not _has_letters(before[0]):
        return before[0]  # 12 = n
    for position, member in enumerate(before):
        if position == 0 and NAME.fullmatch(member):
            continue
        if not _has_letters(member) and not equal(member, last):
            return None
    if len(before) == 1 and not NAME.fullmatch(before[0]) and _has_letters(before[0]):
        return text  # an equation, and no name for a value
    return last


def _has_letters(text: str) -> bool:
    return re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", text)) is not None


def _same_approximation(answer: str, reference: str) -> bool:
    """`\\frac{1}{3} \\approx 0.333`: the exact value counts, or against a decimal the decimal; the one must be the
    other, rounded."""
    exact, *decimals = split_top(answer, "\\approx")
    chain = _end_of_chain(exact)
    if chain is None or len(decimals) != 1 or (number := number_of(decimals[0])) is None:
        return False
    if NAME.fullmatch(chain.strip()):
        return _same(decimals[0], reference)
    if not (equal(chain, decimals[0]) or is_rounding(number, chain)):
        return False
    return _same(chain, reference) or (number_of(reference) is not None and _same(decimals[0], reference))
