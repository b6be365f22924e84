r"""Plain numbers as they are written: with currency, separators of thousands, a decimal comma, powers of ten."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

SIGN = r"(?P<sign>[-+]?)\s*"
CURRENCY = r"(?:[$€£¥]|\\?\$)?\s*"
PLAIN = r"\d+(?:\.\d*)?|\.\d+"
# 1,234.5  12,34,567  1 234.5  1'234.5
GROUPED = r"(?:\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3}|\d{1,3}(?: \d{3})+|\d{1,3}(?:'\d{3})+)(?:\.\d+)?"
# 3,14  1.234,5  1 234,5: a comma before other than three digits, or behind points or spaces.
COMMA = r"\d+,(?:\d{1,2}|\d{4,})|\d{1,3}(?:[. ]\d{3})+,\d+"
TEN = (
    r"\s*(?:(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*"
    r"(?:\{\s*(?P<braced>[-+]?\s*\d{1,6})\s*\}|\(\s*(?P<bracketed>[-+]?\d{1,6})\s*\)|(?P<bare>[-+]?\d{1,6}))"
    r"|[eE](?P<e>[-+]?\d{1,6}))?"
)
NUMBER = re.compile(rf"{SIGN}{CURRENCY}(?P<after>[-+]?)(?P<number>{GROUPED}|{PLAIN}){TEN}\s*[$€£¥]?", re.ASCII)
EUROPEAN = re.compile(rf"{SIGN}{CURRENCY}(?P<after>[-+]?)(?P<number>{COMMA}){TEN}\s*[$€£¥]?", re.ASCII)
INVERSE = re.compile(
    r"(?P<sign>[-+]?)\s*(?:\\frac\s*\{\s*1\s*\}\s*\{\s*10\s*\^|\(?1\s*/\s*\(?10\s*\^)\s*\{?\(?\s*(\d{1,6})\s*\)?\}?\s*[)}]*",
    re.ASCII,
)
POWER = re.compile(r"(?P<sign>[-+]?)\s*10\s*\^\s*(?:\{\s*([-+]?\d{1,6})\s*\}|\(?([-+]\d{1,6}|\d{1,6})\)?)", re.ASCII)
FRACTION = re.compile(
    r"(?P<sign>[-+]?)\s*(?:(?P<whole>\d+)\s*)?(?:\\frac\s*(?:\{\s*(?P<over>-?\d+)\s*\}|(?P<o>\d))\s*(?:\{\s*(?P<under>-?\d+)\s*\}|(?P<u>\d))"
    r"|(?<![\d])(?P<above>-?\d+)\s*/\s*(?P<below>\d+))",
    re.ASCII,
)


def number_of(text: str, decimal_comma: bool = False) -> Decimal | None:
    """The number that the text is, exactly; None where it is none. With `decimal_comma` also 3,14 (two members of a
    list, where nothing says otherwise)."""
    text = text.strip()
    match = NUMBER.fullmatch(text) or (EUROPEAN.fullmatch(text) if decimal_comma else None)
    if match is not None and match["sign"] and match["after"]:
        return None  # --3
    if match is None:
        inverse = INVERSE.fullmatch(text)
        if inverse is not None and int(inverse[2]) >= 3:
            return Decimal(f"{inverse['sign']}1E-{inverse[2]}")
        power = POWER.fullmatch(text)
        exponent = int(power[2] or power[3]) if power is not None else 0
        # 10^{-3} is how a small number is written; 10^2 is a power to be worked out.
        if power is None or -3 < exponent < 6:
            return None
        return Decimal(f"{power['sign']}1E{exponent}")
    digits = match["number"].replace(" ", "").replace("'", "")
    digits = digits.replace(".", "").replace(",", ".") if match.re is EUROPEAN else digits.replace(",", "")
    exponent_text = match["braced"] or match["bracketed"] or match["bare"] or match["e"] or "0"
    return Decimal(f"{match['sign'] or match['after']}{digits.rstrip('.')}E{exponent_text.replace(' ', '')}")


def fraction_of(text: str) -> Fraction | None:
    """The value of a plain fraction or mixed number; None where the text is none."""
    match = FRACTION.fullmatch(text.strip())
    if match is None:
        return None
    over = int(match["over"] or match["o"] or match["above"])
    under = int(match["under"] or match["u"] or match["below"])
    if under == 0:
        return None
    value = int(match["whole"] or 0) + Fraction(over, under)
    return -value if match["sign"] == "-" else value


def powers_of_ten(text: str) -> str:
    """The text with each number in scientific notation as one plain word: it has nothing to work out."""
    return re.sub(rf"(?<![\w.])(?:{PLAIN}){TEN.removesuffix('?')}", "1", text) if "10" in text else text
