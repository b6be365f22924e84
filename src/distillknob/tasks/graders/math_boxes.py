r"""Boxes and what stands around them: `-\boxed{18}`, `\boxed{18} \text{ million}`, "\boxed{18} is wrong" don't say 18.

What touches a box within its formula belongs to what it says, up to a relation, a comma or a line's end on each side:
`x = -\boxed{18}` says −18. In prose that is what touches it, and a unit or a scale behind it. Denials are read on both
sides.
"""

from __future__ import annotations

import re
from collections import deque
from typing import NamedTuple

from distillknob.tasks.graders.committed import braced
from distillknob.tasks.graders.math_units import SCALES, TEXT, UNITS

LONGEST = 600  # characters of an answer
MOST = 200  # boxes of a text, the last ones
REACH = 200  # characters around a box that are looked at
BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
# \boxed 18, \boxed18, \boxed\frac{1}{2}; and plain TeX's and LaTeX's other names for a frame.
UNBRACED = re.compile(
    r"\\(?:boxed|fbox)(?![A-Za-z{])[ \t]{0,9}([-+]?(?:\d[\d.,/]{0,99}"
    r"|\\[dt]?frac\{[^{}]{1,99}\}\{[^{}]{1,99}\}|[A-Za-z](?![A-Za-z])))"
)
FRAMED = re.compile(r"\\(?:framebox|bbox(?:\[[^\]]{0,40}\])?)(?=\s{0,9}\{)")
# Words that touch a box and make another number, or a bound, of what it holds; "minus" and "negative" are a sign.
CHANGED_BEFORE = re.compile(
    r"\b(?:(?:half|square|cube|(?:square|cube|\w+th) root|root|opposite|negative|reciprocal|inverse|factorial|multiple"
    r"|power|logarithm|third|quarter|fifth|tenth)\s+of|twice|double|triple|thrice|times|plus|divided\s+by"
    r"|above|below|over|under|exceeds"
    r"|between\s+\S{1,30}\s+and|from\s+\S{1,30}\s+to)\s+\$?$|(?:\S\s+|(?<![A-Za-z</])[\w)}])[<>]\s*\$?$",
    re.IGNORECASE,
)
SIGN_BEFORE = re.compile(r"\b(?:minus|negative)\s+\$?$", re.IGNORECASE)
BELOW_ZERO = re.compile(r"\W*(?:[A-Za-z°]+\s+){0,3}(?:below|under)\s+(?:zero|0)\b")
PERCENT_OF = re.compile(r"\W{0,6}(?:%|percent|per cent)\W{1,6}of\W{1,6}\d")
NEGATION = r"not|never|cannot|nor|isn['’]t|aren['’]t|wasn['’]t|can['’]t|don['’]t|doesn['’]t|n['’]t|no longer|hardly"
WRONG = r"wrong|incorrect|false|invalid|mistaken|nonsense|impossible|absurd|a mistake|an error"
WRONG += r"|too (?:large|small|big|high|low)"
DENIED_BEFORE = re.compile(
    rf"(?:\b(?:{NEGATION})\b(?:\W+\w+){{0,2}}"
    r"|\b(?:more|less|fewer|greater|larger|smaller|higher|lower) than"
    r"|\b(?:mistake|misconception|trap)\b(?:\W+\w+){0,4}"
    r"|\b(?:false|untrue|wrong|incorrect) (?:that|to)\b(?:\W+\w+){0,5}"
    r"|\b(?:rather than|instead of|other than|different from|except|(?:wrong|incorrect)"
    r"(?:ly)?(?:\W+\w+){0,4})|\\n(?:e|eq)|\\not\s*=|≠|~~|\\(?:x|b)?cancel\s*\{|\\sout\s*\{|\\st\s*\{|<(?:s|del|strike)>)\W*$",
    re.IGNORECASE,
)
SUBJECT = (
    r"(?:this|that|it|which|(?:this|that|the|my)\s+(?:above\s+)?(?:answer|result|value|box|number|solution)"
    r"(?:\s+above)?)"
)
VERB = r"(?:is|was|are|were|['’]s|(?:must|may|might|could|would|can|has to|turns out to) be|seems|looks|appears)"
DENIAL = (
    rf"(?:{VERB}\s+(?:\w+\s+){{0,2}}?(?:{WRONG})\b"
    rf"|(?:{VERB}\s+not|isn['’]t|wasn['’]t|can(?:no|['’])t be|doesn['’]t|does not)"
    r"\s+(?:\w+\s+){0,3}?(?:right|correct|it|true|valid|work|possible|what|the\s+(?:\w+\s+)?(?:answer|solution|result)"
    r"|an?\s+(?:answer|solution))\b)"
)
REJECTED = (
    r"(?:(?:doesn['’]t|does not|can(?:no|['’])t|didn['’]t|fails to) (?:satisfy|fit|work|hold|make sense|check)"
    r"|(?:is|was|(?:must|should|has to|can) be) (?:rejected|discarded|excluded|ruled out|extraneous|crossed out))\b"
)
DENIED_BEHIND = re.compile(
    rf"^[\s$(\[)\].,;:!?*~\\\"'-]*(?:(?:but|and|which|that|this|it)\s+)?(?:{DENIAL}|{REJECTED})"
    r"|^[\s$)\].*]*[✗✘❌✖]"
    rf"|^[\s$)\]*]*[(\[,;—–-]*\s*(?:{WRONG}|not (?:right|correct|the answer|it))\b"
    rf"|(?:^|[.!?\n—–]|\b(?:but|wait|no|hmm|oh|actually|however|sorry|oops)\b)[\s$)\],;:*—-]*"
    rf"(?:(?:but|wait|no|hmm|oh|actually|however|sorry|oops|and)\b[\s,.;:!…—-]*){{0,3}}{SUBJECT}\s*(?:{DENIAL}|{REJECTED})"
    r"|^[\s$)\]]*[.!?,;—–-]*\s*(?:wait|no|oops|scratch that|nope)\b[\s,.;:!—–-]*(?:that|it|this|no|not|the|scratch|$)"
    r"|^\s*(?:~~|</(?:del|strike)>)",
    re.IGNORECASE,
)
# Ends what belongs to a box, on its left and on its right.
LEFT_END = re.compile(
    r"(?:=|<|>|(?<!\\)[:,;]|&|\\\\|\\(?:approx|le|ge|leq|geq|leqslant|geqslant|implies|Rightarrow|Longrightarrow|therefore|iff|to|rightarrow"
    r"|quad|qquad|in|sim|equiv|cong|colon|because|text\s*\{[^{}]*\}|boxed\s*\{[^{}]*\})(?![A-Za-z]))"
)
RIGHT_END = re.compile(
    r"=|<|>|(?<![\\{]),(?!\d)|(?<!\\);|&|\\\\|\.(?!\d)|\\(?:approx|le|ge|leq|geq|leqslant|geqslant|implies|Rightarrow|Longrightarrow|iff|to"
    r"|rightarrow|quad|qquad|in|sim|equiv|cong|boxed|fbox|end|tag|qed|square|blacksquare|checkmark)(?![A-Za-z])"
)
DECORATION = re.compile(
    r"\\(?:displaystyle|large|Large|LARGE|huge|Huge|bf|mathbf|boldsymbol|textbf|underline|left|right|therefore|color\s*\{[^{}]*\}|text"
    r"|mathrm|begin\s*\{[a-z]+\*?\}|because|bigg?|Bigg?)(?![A-Za-z])|[\s{}*~]|\\[,;:! ]"
)
GLUED_BEFORE = re.compile(r"(?:[-+*/^\d.{}()|√]|\\(?:frac|dfrac|sqrt|times|cdot|pi|pm|mp|div)|×|·|±)+$")
LIST_NUMBER = re.compile(r"(?:^|\s)\(?\d+[.)]$|\*\*$|^\(+$|^[.)}|]+$")
OPERATION_BEFORE = re.compile(r"(?:[\d)}A-Za-z]\s+[-+*/×·±]|(?:=|\bis)\s*[-+±])\s*$")
GLUED_BEHIND = re.compile(
    r"[!^_%°\d\w²³:/]|(?:[.,]|\{,\})\d|-\d|\\(?:times|cdot|div|pm|mp|pi|sqrt)(?![A-Za-z])|[-+*×·±/]\s*[\d\\$(]"
)
OPERATION_BEHIND = re.compile(r"\s+(?:[-+*/×·÷±:–]|\\(?:pm|times|cdot|div))\s*[\d\\$(√]|\s*(?:to|through)\s+\$?[\d\\]")
WORDS_BEHIND = re.compile(r"[-\s]*((?:[A-Za-z°%$€£¥]+(?:\^\d|[²³])?[\s/-]*){1,4})")


class Boxed(NamedTuple):
    """A box in a text: where it ends, what is said with it, and whether that is denied."""

    end: int
    says: str
    denied: bool


def with_braces(text: str) -> str:
    r"""The text with each box written as `\boxed{…}`."""
    return UNBRACED.sub(r"\\boxed{\1}", FRAMED.sub(r"\\boxed", text)) if "box" in text else text


def boxes(text: str) -> list[Boxed]:
    """The boxes of a text that hold anything, in order. One within another is the outer one's."""
    out: list[Boxed] = []
    behind = 0
    for match in deque(BOX.finditer(text), maxlen=MOST):
        inside = braced(text, match.end(), LONGEST)
        if match.start() < behind or inside is None or not inside.strip():
            continue
        behind = match.end() + len(inside)
        out.append(_boxed(text, match.start(), behind + 1, _unnested(inside.strip())))
    return out


def _unnested(inside: str) -> str:
    """What a box says that has others in it."""
    while (match := BOX.search(inside)) is not None:
        inner = braced(inside, match.end(), LONGEST)
        if inner is None:
            return inside
        before, after = inside[: match.start()], inside[match.end() + len(inner) + 1 :]
        inside = _joined(before, inner.strip(), after) if before.strip() or after.strip() else inner.strip()
    return inside


def _boxed(text: str, start: int, end: int, inside: str) -> Boxed:
    before, after = text[max(0, start - REACH) : start], text[end : end + REACH]
    before, after = before.rpartition("\n\n")[2], after.partition("\n\n")[0]
    opening, closing = _delimiters(before, after)
    left, right = before[opening:], after[:closing]
    in_formula = opening > 0 or closing < len(after)
    outside = after[closing:]
    denied = bool(DENIED_BEFORE.search(re.sub(r"[\s$([{*]+$|\\[([]$", "", before.rpartition("\n")[2]))) or bool(
        DENIED_BEFORE.search(left)
    )
    denied = denied or bool(DENIED_BEHIND.search(_prose(after)) or PERCENT_OF.match(after))
    line = before.rpartition("\n")[2]
    denied = denied or bool(CHANGED_BEFORE.search(line))
    if not inside.startswith("-") and SIGN_BEFORE.search(line):
        inside = f"-{inside}" if re.fullmatch(r"[\w.,{}\\]+", inside) else f"-({inside})"
    if re.match(r"\s*(?:\\ne(?![a-z])|\\neq|\\not\s*=|≠|[<>]\s*[\d\\A-Za-z(])", right):
        denied = True
    if BELOW_ZERO.match(_prose(after).replace("$", "")):
        said = f"{inside} \\text{{ below zero }}"
    elif in_formula:
        said = _in_formula(left, inside, right)
        if not right.strip(" \n.,\\!;") or TEXT.fullmatch(right.strip()):
            said = _with_words(said, re.sub(r"^(?:\$\$?|\\[)\]])", "", outside))
        sign = re.search(r"(?:^|[\s=:])([-+−]|\d+)\s*\$$", before[:opening]) if not left.strip() else None
        if sign is not None and not re.search(r"\$[^$]*\$$", before[:opening]):
            said = _joined(sign[1], inside, "")
    else:
        said = _in_prose(before.rpartition("\n")[2], inside, after.partition("\n")[0])
    return Boxed(end, said, denied)


def _delimiters(before: str, after: str) -> tuple[int, int]:
    """Where the formula around a box begins in what stands before it, and ends in what stands behind it."""
    for opening, closing in (("\\[", "\\]"), ("\\(", "\\)")):
        at = before.rfind(opening)
        if at >= 0 and before.find(closing, at) < 0:
            end = after.find(closing)
            return at + 2, end if end >= 0 else len(after)
    plain = before.replace("\\$", "  ")
    if plain.replace("$$", "\0").count("$") % 2 or plain.count("$$") % 2:
        at = plain.rfind("$")
        end = after.replace("\\$", "  ").find("$")
        if end >= 0:
            return at + 1, end
    return 0, len(after)


def _prose(text: str) -> str:
    """Text as it is read: LaTeX's words without their commands."""
    return re.sub(r"^\s*\$+", "", TEXT.sub(r" \1 ", text))


def _in_formula(left: str, inside: str, right: str) -> str:
    at = 0
    for match in LEFT_END.finditer(left):
        at = match.end()
    left = re.sub(r"\{\s*([-+])\s*\}", r"\1", left[at:])
    end = RIGHT_END.search(right)
    right = right[: end.start()] if end is not None else right
    if not DECORATION.sub("", left).strip("(["):
        left = ""
    if not left and not DECORATION.sub("", right).strip(")]. \n"):
        right = ""
    return _joined(left, inside, right)


def _joined(left: str, inside: str, right: str) -> str:
    left, right = left.strip(), right.strip()
    if not left and not right:
        return inside
    simple = re.fullmatch(r"[\d.,]+|[A-Za-z]", inside.strip()) is not None
    touching = re.search(r"[\d)}A-Za-z]$", left) or re.match(r"[\d(A-Za-z]", right)
    unit = not left and re.match(r"\\(?:text|mathrm|mbox|textrm|%|circ)|\^\s*\{?\s*\\circ|%|°", right)
    if (simple and not touching) or unit:
        return f"{left}{inside}{right}" if not unit else f"{inside} {right}"
    return f"{left}({inside}){right}"


def _with_words(said: str, after: str) -> str:
    """With the scale or the unit that follows in prose."""
    after = re.sub(r"^(?:\\[,;:! ]|~)+", " ", TEXT.sub(r" \1 ", after))
    operation = OPERATION_BEHIND.match(after) or (
        re.match(r"[\^_:/]|%|°|-\d|[±×]", after) if not after.startswith((":**", "::")) else None
    )
    if operation is not None and not re.match(r":\s|:$|/\s|_+$", after):
        return said + " " + re.split(r"[\s.,;!?$]*(?:\s|$)", after.strip(), maxsplit=1)[0]
    words = WORDS_BEHIND.match(after)
    if words is None or not after.strip():
        return said
    names = re.findall(r"[A-Za-z°%$€£¥]+", words[1])
    first = names[0]
    if first.casefold() in SCALES or first in ("M", "k", "K", "B", "T", "bn", "mn"):
        return f"{said} \\text{{ {first} }}"
    if first.casefold() in ("square", "sq", "cubic") and len(names) > 1:
        return f"{said} \\text{{ {first} {names[1]} }}"
    if first.casefold() == "and" and re.match(r"\s*and\s+(?:a|one)\s+(?:half|third|quarter|fourth)", after):
        return f"{said} \\text{{ and a half }}"
    unit = UNITS.get(first) or UNITS.get(first.casefold()) or UNITS.get(first.casefold().removesuffix("s"))
    if unit is None or (
        first.casefold() in ("in", "a", "t", "s", "d", "m", "second", "mole")
        and not re.match(r"\s*(?:m|s|in)\s*[.,;]?\s*$", after)
    ):
        return said
    power = re.match(r"\s*[A-Za-z°]+\s*(\^\d|[²³]|squared|cubed)", after)
    return f"{said} \\text{{ {first} {power[1] if power is not None else ''} }}"


def _in_prose(before: str, inside: str, after: str) -> str:
    before = before.replace("$", "")
    glued = re.sub(r"[*_\s]+$", "", before) if before.endswith(("*", "_")) else before
    match = GLUED_BEFORE.search(glued)
    left = match[0] if match is not None and not glued.endswith((" ", "\t")) else ""
    if left and LIST_NUMBER.search(glued[: match.end() if match else 0]) and not re.search(r"[-+]", left):
        left = ""
    if left.strip("(){}|.") == "" and "|" not in left:
        left = ""
    if not left and (operation := OPERATION_BEFORE.search(glued)) is not None:
        left = operation[0].strip()
        left = left[-1] if left[0] in "=i" else left
    right = ""
    if (touching := GLUED_BEHIND.match(after)) is not None and not re.match(r"[:/]\s|[:/]$|_+\s|!+(?:\s|$)|_+$", after):
        right = re.split(r"[\s$]|[.,;](?:\s|$)", after, maxsplit=1)[0].rstrip(".,;!?*")
        if re.match(r"[eE][-+]?\d", right):
            right = f"\\cdot 10^{{{right[1:]}}}"
        elif touching[0].isalpha() and right not in ("M", "k", "K", "B", "T") and not re.fullmatch(r"[xyzneπi]", right):
            right = (
                "" if right.casefold() not in UNITS and not re.match(r"[a-z]\W|\d", right) else f"\\text{{ {right} }}"
            )
        elif right in ("M", "k", "K", "B", "T"):
            right = f"\\text{{{right}}}"
    said = _joined(left, inside, right)
    return _with_words(said, after) if not right else said
