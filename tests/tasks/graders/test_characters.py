"""One spelling for the characters that chat models write."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillknob.tasks.graders.characters import latex_characters, plain_characters


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("−5", "-5"),
        ("–5", "-5"),
        ("18\u200b", "18"),
        ("\ufeff1\u206018\u200e", "118"),
        ("10\u202f000", "10 000"),
        ("5\u00a0cm²", "5 cm^2"),
        ("㎡", "m^2"),
        ("℃", "°C"),
        ("5º", "5°"),
        ("½", "1/2"),
        ("2½", "2 1/2"),
        ("2 ¾", "2 3/4"),
        ("1⁄2", "1/2"),
        ("10⁻¹⁹", "10^-19"),
        ("xⁿ⁺¹", "x^(n+1)"),
        ("x₁₀", "x_10"),
        ("７", "7"),
        ("𝟏𝟐 𝑥", "12 x"),
        ("（Ｂ）", "(B)"),
        ("Answer：７。", "Answer:7."),
        ("Jose\u0301", "José"),
        ("don’t “x”", 'don\'t "x"'),
        ("a\u2028b", "a\nb"),
        ("x ≥ 5", "x ≥ 5"),
        ("18 — no", "18 — no"),
        ("ﬁ´", "fi´"),
    ],
)
def test_plain_characters_are_those_of_a_keyboard(text: str, plain: str) -> None:
    assert plain_characters(text) == plain


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("√2", "\\sqrt{2}"),
        ("√(x+1)", "\\sqrt{x+1}"),
        ("2√3+∛5", "2\\sqrt{3}+\\sqrt[3]{5}"),
        ("√√2", "\\sqrt{\\sqrt{2}}"),
        ("√π", "\\sqrt{\\pi }"),
        ("10⁻¹⁹", "10^{-19}"),
        ("½x", "\\frac{1}{2}x"),
        ("2½", "2 \\frac{1}{2}"),
        ("(−∞, 3)∪[1, 2]", "(-\\infty , 3)\\cup [1, 2]"),
        ("6 °C", "6 ^\\circ C"),
        ("x ≠ 5", "x \\ne  5"),
        ("ℝ", "\\mathbb{R}"),
        ("ϕ…", "\\phi \\ldots "),
        ("3·4", "3\\cdot 4"),
        ("x₁₀", "x_{10}"),
    ],
)
def test_latex_characters_are_commands_where_there_are_any(text: str, latex: str) -> None:
    assert latex_characters(text) == latex


@given(st.text(max_size=50))
def test_a_plain_text_stays_what_it_is(text: str) -> None:
    plain = plain_characters(text)
    assert plain_characters(plain) == plain


@pytest.mark.parametrize("text", ["Ж½√x²" * 5_000, "√" * 20_000, "¹" * 20_000, "√(" * 10_000])
def test_a_long_text_takes_no_longer_than_its_length(text: str) -> None:
    started = time.monotonic()
    plain_characters(text)
    latex_characters(text)
    assert time.monotonic() - started < 5
