r"""The unit behind a value: which one it is, and whether the words there make another number of it.

A unit that only one side names is left out, as the data sets leave it out (`5 \text{ cm}` for 5). Two that differ are
two answers (18 minutes for 18 hours, cm² for cm): nothing is converted. "million", "squared", "or 19" and the like are
no units: they change what is said.
"""

from __future__ import annotations

import re

TEXT = re.compile(r"\\(?:text|textrm|textbf|textit|textnormal|mathrm|mathsf|mbox|operatorname|hbox)\s*\{([^{}]*)\}")
# Words that make another number of the one before them.
SCALES = frozenset(
    """half halves third thirds quarter quarters fourth fourths fifth fifths sixth sixths seventh sevenths eighth
    eighths ninth ninths tenth tenths hundredth hundredths thousandth thousandths hundred hundreds thousand thousands
    million millions billion billions trillion trillions dozen dozens score squared cubed factorial bn mn mio mil lakh
    crore tens""".split()
)
# Words after a number that make another number or another statement of it; any other word is a unit.
CHANGES = SCALES | frozenset(
    """or and to not but nor neither either than versus between from minus plus times over divided multiplied by
    power point mod modulo root is are was were if when unless except maybe perhaps possibly wrong incorrect false
    through e below under beneath above negative zero opposite reciprocal inverse twice double triple base isn't aren't
    approximately about around roughly nearly almost remainder r""".split()
)
SCALE_LETTERS = frozenset(("k", "K", "M", "B", "T", "G", "MM"))
SPELLINGS = {
    "mm": "mm millimeter millimetre",
    "cm": "cm centimeter centimetre",
    "dm": "dm decimeter decimetre",
    "m": "m meter metre",
    "km": "km kilometer kilometre kms",
    "in": "in inch inche",
    "ft": "ft foot feet",
    "yd": "yd yard",
    "mi": "mi mile",
    "mg": "mg milligram milligramme",
    "g": "g gram gramme gm",
    "kg": "kg kilogram kilogramme kilo kgs",
    "t": "t ton tonne",
    "lb": "lb lbs pound",
    "oz": "oz ounce",
    "ml": "ml mL milliliter millilitre",
    "l": "l L liter litre",
    "gal": "gal gallon",
    "s": "s sec second secs",
    "min": "min minute mins",
    "h": "h hr hour hrs",
    "day": "day d",
    "week": "week wk",
    "month": "month",
    "year": "year yr yrs",
    "°": "° deg degree",
    "°C": "°C celsius centigrade",
    "°F": "°F fahrenheit",
    "K": "K kelvin",
    "rad": "rad radian",
    "%": "% percent percentage pct",
    "$": "$ dollar usd buck",
    "cent": "cent ¢",
    "€": "€ euro eur",
    "£": "£ gbp sterling",
    "¥": "¥ yen jpy",
    "mi/h": "mph",
    "km/h": "kmh kph kmph",
    "unit": "unit",
    "Hz": "Hz hertz",
    "N": "N newton",
    "J": "J joule",
    "W": "W watt",
    "V": "V volt",
    "A": "A ampere amp",
    "Pa": "Pa pascal",
    "mol": "mol mole",
}
UNITS = {spelling: unit for unit, spellings in SPELLINGS.items() for spelling in spellings.split()}
CURRENCIES = "$€£¥"
TOKEN = re.compile(r"°\s*[CF]?\b|[%$€£¥¢°]|[A-Za-z']+|\^\s*\{?\s*(-?\d+)\s*\}?|/|\\?·|-")
# One piece of a unit at the end of a formula.
PIECE = re.compile(
    r"(?:\\(?:text|textrm|textbf|textit|textnormal|mathrm|mathsf|mbox|operatorname|hbox)\s*\{[^{}]*\}"
    r"(?:\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d))?|\^\s*\{?\s*\\circ\s*\}?(?:\s*[CF])?|\\degree|\\?%|\\cdot|/)\s*$"
)
PLAIN_WORDS = re.compile(
    r"(?P<value>.*?\d)(?P<words>(?:\s+|-(?=[A-Za-z]{2})|/(?=[A-Za-z]))?[A-Za-z°%$€£¥¢][A-Za-z°%$€£¥¢'/.^\d\s{}-]*)",
    re.ASCII,
)


def split_unit(text: str) -> tuple[str, str | None]:
    r"""`_split_unit`, with the currency before a number as its unit."""
    value, unit = _split_unit(text)
    money = re.match(r"([-+]?)\s*([$€£¥])\s*(?=\d|\.\d)", value)
    if money is None or unit is None:
        return value, unit
    return money[1] + value[money.end() :], unit if unit and not unit.startswith("/") else money[2] + unit


def _split_unit(text: str) -> tuple[str, str | None]:
    r"""The value of a cleaned answer and its unit in one spelling, "" where it has none, None where the words behind
    the value make another number or statement of it."""
    value, pieces = text, ""
    while (match := PIECE.search(value)) is not None and match.start() > 0:
        value, pieces = value[: match.start()].rstrip(" ~"), match[0] + " " + pieces
        if not re.search(r"[\d\w)}\]]$", value) and not PIECE.search(value):
            return text, ""  # an operator, or an opening bracket, before it
    if not value or not re.search(r"\d|[A-Za-z)}]$", value):
        return text, ""
    if pieces:
        unit = unit_of(re.sub(r"\\cdot", " ", pieces), glued=not re.search(r"\\\w+\s*\{\s", pieces))
        if TEXT.fullmatch(value.strip()) or (unit is None and not re.search(r"\d", value)):
            return text, ""  # words alone
        inner = PLAIN_WORDS.fullmatch(value)
        if inner is None or unit is None:
            return value, unit
    words = PLAIN_WORDS.fullmatch(text)
    if words is not None and _is_number(words["value"]):
        glued = words["words"][0].isalpha()
        lead = re.match("[A-Za-z]*", words["words"])
        assert lead is not None
        if glued and (re.search(r"(?<!\^)(?<!\^\{)\d", words["words"]) or not _may_be_unit(lead[0])):
            return text, ""  # 4x^3 - 3x
        unit = unit_of(words["words"], glued)
        letters = TOKEN.findall(words["words"])
        is_unit = re.sub(r"\s*\^.*", "", words["words"].strip().rstrip(".")) in UNITS
        single = re.search(r"(?<![A-Za-z°/])[A-Za-z](?![A-Za-z/])", words["words"].strip().rstrip("."))
        if (glued and not is_unit and words["words"].strip()[0] not in "°%") or (single and not is_unit and letters):
            if unit is None:
                return words["value"], None
            return text, ""  # a variable
        return words["value"], unit
    return text, ""


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?\s*[$€£¥]?\s*\d[\d.,' /]*|\d{1,2}:\d\d", text) is not None


def _may_be_unit(word: str) -> bool:
    return word in UNITS or word in SCALE_LETTERS or word.casefold() in UNITS or word.casefold() in CHANGES


def unit_of(words: str, glued: bool = False) -> str | None:
    """The unit that the words name, in one spelling; None where they change the number before them. `glued`: they
    follow it without a space, as the M of 18M does."""
    words = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\degree", "°", TEXT.sub(r" \1 ", words)).replace("\\", " ")
    if glued and words.strip() in SCALE_LETTERS:
        return None
    if words.strip() in SCALE_LETTERS - {"K", "T"} or re.search(r"\d\s*[A-Za-z]|[A-Za-z]\s+\d", words):
        return None
    out: list[str] = []
    power = ""
    for match in TOKEN.finditer(re.sub(r"\bper\b", "/", re.sub(r"\bper\s+cent\b", "percent", words))):
        token = match[0].replace(" ", "")
        lower = token.casefold()
        if lower in ("square", "sq", "cubic", "cu"):
            power = "^2" if lower.startswith("sq") else "^3"
        elif lower in ("squared", "cubed") and out and out[-1] in SPELLINGS:
            out[-1] += "^2" if lower == "squared" else "^3"
        elif lower in CHANGES:
            return None
        elif token.startswith("^"):
            if not out:
                return None
            out[-1] += f"^{match[1]}"
        elif token == "-":
            continue
        elif token in ("C", "F") and out and out[-1] == "°":
            out[-1] = f"°{token}"
        else:
            unit = UNITS.get(token) or UNITS.get(lower) or UNITS.get(lower.removesuffix("s")) or lower.removesuffix("s")
            if unit in ("°C", "°F") and out and out[-1] == "°":
                out.pop()
            out.append(unit + power)
            power = ""
    name = " ".join(out).replace(" / ", "/").replace("/ ", "/").replace(" /", "/")
    return "" if name.partition("^")[0] in ("unit", "") else name


def conflict(first: str, second: str) -> bool:
    """Do two units differ, where both are named? One that says more of the same ("red apples", "apples") doesn't."""
    if not first or not second or first == second:
        return False
    names = [set(unit.split()) for unit in (first, second)]
    return not (names[0] <= names[1] or names[1] <= names[0]) or bool((names[0] ^ names[1]) & SPELLINGS.keys())
