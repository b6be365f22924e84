r"""One spelling of what LaTeX, Markdown and plain text have several for, before two answers are compared."""

from __future__ import annotations

import re
from collections.abc import Callable

from distillknob.tasks.graders.characters import latex_characters
from distillknob.tasks.graders.math_numbers import number_of

# Currencies without a spelling in LaTeX, and micro- before a unit: not the letter μ.
CURRENCIES = dict(zip("₹₽₩₪฿₫₴₺", "rupee rouble won shekel baht dong hryvnia lira".split(), strict=True))
MONEY = re.compile(rf"([-+]?)(?:([{''.join(CURRENCIES)}])\s*([\d.,' ]+)|([\d.,' ]+)([{''.join(CURRENCIES)}]))")
MICRO = re.compile(r"(\d)\s*[μµ]([A-Za-z]+)\s*$")

OHM = re.compile(r"(\d)(?:\s+|(?=[kMm]))([kMm]?)Ω\s*$")
# A function by its name alone, before what it is applied to.
FUNCTION = (
    r"(sinh|cosh|tanh|sin|cos|tan|cot|csc|arcsin|arccos|arctan|ln|log|exp)(?=\s*\(|\s+(?:\d|\\|[a-z](?![A-Za-z])))"
)
SCALED = re.compile(
    r"(?<![\w.,])(\d[\d,]*(?:\.\d+)?)\s*(?:\\text\s*\{\s*)?(thousand|million|billion|trillion)s?(?![A-Za-z])([^{}]*)\}?\s*$"
)
SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
CLEAN: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (
        re.compile(r"\\(?:left|right|big|Big|bigg|Bigg|bigl|bigr|Bigl|Bigr|displaystyle|textstyle|limits)(?![A-Za-z])"),
        "",
    ),
    (re.compile(r"\\(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge)(?![A-Za-z])"), ""),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"(?<=\d)(?:\\text\s*)?\{\s*([.:,])\s*\}(?=\d)"), r"\1"),
    (re.compile(r"^\{?\s*(\d+)\s*\\over\s*(\d+)\s*\}?$"), r"\\frac{\1}{\2}"),
    (re.compile(r"^(?:\\text\s*\{\s*)?(?:[Mm]inus|[Nn]egative)(?:\s*\}\s*|\s+)(?=[\d\\])([^{}]*)\}?$"), r"-\1"),
    (re.compile(r"^([-+]?)(?:US|R|A|AU|C|CA|NZ|HK|S)\s?\\?\$\s?(?=\d)"), r"\1$"),
    (re.compile(r"^(USD|EUR|GBP|JPY|CHF|CAD|AUD|INR|CNY|RMB|Rs\.?)\s?([-+]?\d[\d.,' ]*)$"), r"\2 \\text{ \1 }"),
    (re.compile(rf"(?<![A-Za-z\\]){FUNCTION}"), r"\\\1 "),
    (re.compile(r"(?<![A-Za-z\\])sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![A-Za-z\\])cbrt\s*\(([^()]*)\)"), r"\\sqrt[3]{\1}"),
    (re.compile(r"(?<![A-Za-z\\])(pi|infty)(?![A-Za-z])"), r"\\\1 "),
    (re.compile(r"\\(?:mathrm|text|rm|textrm)\s*\{\s*([eid])\s*\}|\{\\rm\s+([eid])\s*\}"), r" \1\2 "),
    (re.compile(r"\\mathbb\s+([A-Z])(?![A-Za-z])"), r"\\mathbb{\1}"),
    (re.compile(r"[\[(]\s*(\\begin\s*\{(?:matrix|array)\}.*\\end\s*\{(?:matrix|array)\})\s*[\])]"), r"\1"),
    (re.compile(r"\\(?:mathbf|mathbb|Bbb)\s*\{\s*([RZNQC])\s*\}"), r"\\mathbb{\1}"),
    (re.compile(r"^\{([^{}\\]*,[^{}\\]*)\}$"), r"\\{\1\\}"),
    (re.compile(r"(?<=\d)\s*(?:\\text\s*\{\s*)?([apAP])\.?[mM]\.?\s*\}?$"), lambda match: f" {match[1].lower()}m"),
    (re.compile(r"\\(?:textrm|textbf|textit|textnormal|mathrm|mathsf|mbox|hbox|operatorname)\s*\{"), r"\\text{"),
    (re.compile(r"\\(?:mathbf|boldsymbol|bm|mathit|mathnormal|emph)\s*\{([^{}]*)\}"), r"{\1}"),
    (re.compile(r"\\(?:color|textcolor)\s*\{[^{}]*\}"), ""),
    (re.compile(r"\\varnothing|\\O(?![A-Za-z])|\\\{\s*\\\}"), r"\\emptyset"),
    (re.compile(r"\\leqslant|\\leq(?![A-Za-z])"), r"\\le"),
    (re.compile(r"\\geqslant|\\geq(?![A-Za-z])"), r"\\ge"),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\colon(?![A-Za-z])"), ":"),
    (re.compile(r"\\neq(?![A-Za-z])|\\not\s*="), r"\\ne"),
    (re.compile(r"\\lbrace(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\lbrack(?![A-Za-z])"), "["),
    (re.compile(r"\\rbrack(?![A-Za-z])"), "]"),
    (re.compile(r"(?<=\d)\{,\}(?=\d)"), ","),
    (re.compile(r"(?<=\d)(?:\\,|\\ |\\;|\\:|~|\\!|,\\!)(?=\d{3}(?!\d))"), ","),
    (re.compile(r"(?<!\\)\\!"), ""),
    (re.compile(r"(?<!\\)\\[,;:> ]|~|\\(?:thinspace|enspace|space|hfill)(?![A-Za-z])"), " "),
    (re.compile(r"°"), r"^\\circ "),
    (re.compile(r"(?<!\\)%"), r"\\%"),  # a comment, to LaTeX
    (re.compile(r"\\underline\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"^\\text\s*\{\s*([-+]?[\d$][^{}]*)\}$"), r"\1"),
    (re.compile(r"\\frac\s*\{\s*\\text\s*\{([^{}]*)\}\}\s*\{\s*\\text\s*\{([^{}]*)\}\}"), r"\\text{\1/\2}"),
    (re.compile(r"(?<=\d)\s+\\Omega$"), r"\\text{ ohm}"),
    (re.compile(r"\^\s*(?:\{\s*\\prime\s*\}|\\prime)"), "'"),
    (SCALED, lambda match: _scaled(match)),
)


def cleaned(text: str) -> str:
    """One spelling of what LaTeX and Markdown have several for."""
    text = (
        latex_characters(OHM.sub(r"\1 \\text{ \2ohm }", MICRO.sub(r"\1 \\text{ u\2 }", text)))
        .replace("**", "")
        .strip()
        .strip("`")
        .strip()
    )
    money = MONEY.fullmatch(text)
    if money is not None:
        sign, before, amount, other, after = money.groups()
        text = f"{sign}{(amount or other).strip()} \\text{{ {CURRENCIES[before or after]} }}"
    for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            inside = text[len(opening) : -len(closing)]
            if opening[0] != "$" or "$" not in inside.replace("\\$", ""):
                text = inside
    for pattern, replacement in CLEAN:
        text = pattern.sub(replacement, text)
    text = text.replace("\\$", "$")
    return text.strip().rstrip(".,;").strip()


def _scaled(match: re.Match[str]) -> str:
    """5 million as the number that it is, with what follows it."""
    number = number_of(match[1])
    if number is None:
        return match[0]
    return f"{number.scaleb(SCALES[match[2]]):f} {match[3]}".strip()
