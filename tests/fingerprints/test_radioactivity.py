"""The tests for a green list: how often they find what isn't there, and whether they find what is."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from scipy.stats import binom

from distillknob.errors import BadInputError
from distillknob.fingerprints.green import GreenRule, Key
from distillknob.fingerprints.radioactivity import (
    Observed,
    binomial_tail,
    detectable_share,
    distributions_observed,
    examined,
    hoeffding_bound,
    pairs_observed,
    places,
)

KEY = Key.of_text("0123456789abcdef")
SURE = 1e-6  # the chance that an exact bound is passed although all is well
TRIALS = 800


def text(seed: int, length: int = 400, words: int = 30) -> list[int]:
    """Unmarked text of few words, of which some are frequent: it repeats itself much."""
    return random.Random(seed).choices(range(words), weights=[1 / (1 + word) for word in range(words)], k=length)


def marked(rule: GreenRule, length: int, chance: float, words: int = 300, seed: int = 0) -> list[int]:
    """Text whose next word is drawn anew, with this chance, where it isn't green."""
    source, ids = random.Random(seed), [0] * rule.window
    while len(ids) < length:
        green = rule.mask(torch.tensor([ids]), words)[0]
        token = source.randrange(words)
        if not green[token] and source.random() < chance:
            token = source.randrange(words)
        ids.append(token)
    return ids[rule.window :]


def of_text(ids: list[int], window: int = 1) -> Observed:
    return pairs_observed(places([[]], [ids], window, by_window=False).counted)


def of_flat_distributions(seed: int, windows: int = 60, width: int = 200) -> Observed:
    """Distributions of which some are sure and some are not, cut off where little is left."""
    probabilities = torch.distributions.Dirichlet(torch.full((width,), 0.05)).sample((windows,))  # type: ignore
    top = probabilities.topk(20)
    return distributions_observed([(w,) for w in range(windows)], [*top.indices], [*top.values])


@pytest.mark.parametrize("share", [0.25, 0.5])
@pytest.mark.parametrize("observe", [of_text, of_flat_distributions], ids=["text", "weights"])
def test_no_p_value_is_small_more_often_than_it_says(share: float, observe: Callable[..., Observed]) -> None:
    """The false alarms of a suspect that never met the key, over many keys, against exact bounds: at every level the
    share of p-values below it is at most the level."""
    torch.manual_seed(0)
    observed = observe(list(text(0)) if observe is of_text else 0)
    every: dict[str, list[float]] = {"binomial": [], "hoeffding": [], "permutation": []}
    for number in range(TRIALS):
        rule = GreenRule(Key.drawn(7, number), share)
        green = observed.green(rule)
        every["hoeffding"].append(hoeffding_bound(green, observed.n, share))
        if observed.whole:
            every["binomial"].append(binomial_tail(round(green * observed.n), observed.n, share))
    result = examined(observed, GreenRule(KEY, share), keys=400, seed=7)
    every["permutation"] = [
        examined(observed, GreenRule(Key.drawn(8, number), share), keys=19, seed=number).permutation
        for number in range(TRIALS // 5)
    ]
    every["innocent"] = result.innocent
    for name, values in every.items():
        for level in (0.01, 0.05, 0.1, 0.25, 0.5):
            most = binom.ppf(1 - SURE, len(values), level)
            assert sum(p <= level for p in values) <= most, (name, level)
    # and the exact ones aren't idle: they come down to their level about as often as they may
    for name in ("binomial", "permutation"):
        values = every[name]
        if values:
            assert sum(p <= 0.25 for p in values) >= binom.ppf(SURE, len(values), 0.15), name


def test_green_text_is_found_by_every_p_value() -> None:
    for window in (1, 2):
        rule = GreenRule(KEY, window=window)
        result = examined(of_text(marked(rule, 1500, chance=0.5), window), rule, keys=199, seed=0)
        assert result.green > 0.57
        assert result.binomial is not None and result.p == result.binomial < 1e-6
        assert result.hoeffding < 1e-4 and result.permutation == 1 / 200
        assert result.false_alarms(0.01) <= binom.ppf(1 - SURE, 199, 0.01) / 199
        other = examined(
            of_text(marked(rule, 1500, chance=0.5), window), GreenRule(Key.drawn(1, 0), window=window), 199, 0
        )
        assert other.p > 1e-4  # another key finds nothing in it


def test_distributions_with_green_mass_are_found() -> None:
    torch.manual_seed(1)
    rule = GreenRule(KEY, share=0.5)
    windows = [(w,) for w in range(150)]
    logits = torch.randn(150, 200) + 1.0 * rule.mask(torch.tensor(windows), 200)
    top = logits.softmax(-1).topk(40)
    observed = distributions_observed(windows, [*top.indices], [*top.values])
    result = examined(observed, rule, keys=199, seed=0)
    assert result.binomial is None and result.p == result.permutation == 1 / 200
    assert result.hoeffding < 1e-3 and 0.55 < result.green < 0.8
    unmarked = distributions_observed(windows, [*torch.randn(150, 200).softmax(-1).topk(40).indices], [*top.values])
    assert examined(unmarked, rule, keys=199, seed=0).p > 0.005


def test_one_text_a_thousand_times_is_one_text() -> None:
    """Counted a thousand times, its chance excess of green would be a detection under one key in six."""
    ids = text(3, length=120)
    once, often = places([[]], [ids], 1, by_window=False), places([[]] * 1000, [ids] * 1000, 1, by_window=False)
    assert often.counted == once.counted
    assert often.repeated == once.repeated + 999 * 119
    rule = next(
        rule
        for rule in (GreenRule(Key.drawn(2, number)) for number in range(100))
        if pairs_observed(once.counted).green(rule) > 0.55
    )
    assert examined(pairs_observed(often.counted), rule, keys=19, seed=0).p > 0.05
    n = 1000 * len(once.counted)
    assert binomial_tail(round(0.55 * n), n, 0.5) < 1e-9  # what it would be otherwise
    assert len(places([[]] * 9, [ids] * 9, 1, by_window=True).counted) == len(set(ids[:-1]))


def test_windows_of_the_prompt_are_skipped() -> None:
    answer = [1, 2, 3, 1, 4]
    seen = places([[9, 1, 2]], [answer], 1, by_window=False)
    assert [(place.window, place.token, place.number) for place in seen.counted] == [((3,), 1, 3)]
    assert seen.copied == 4 and seen.repeated == 0
    pairs = places([[9, 1, 2]], [answer], 2, by_window=False)
    assert [place.window for place in pairs.counted] == [(2, 1), (2, 3), (3, 1)]  # (1, 2) stands in the prompt
    other = places([[9], [9, 1, 2]], [answer, answer], 1, by_window=False)
    assert {place.row for place in other.counted} == {0}, "of each prompt its own"


def test_a_prompt_full_of_marked_text_is_no_evidence() -> None:
    rule = GreenRule(KEY)
    copied = marked(rule, 1200, chance=1.0, words=40)
    assert examined(of_text(copied), rule, 19, 0).p < 1e-3
    assert places([copied], [copied], 1, by_window=False).counted == []


def test_what_cannot_be_detected_is_said() -> None:
    for n, alpha in ((1000, 0.01), (50, 0.05), (100_000, 1e-6)):
        share = detectable_share(n, 0.5, alpha)
        assert share is not None
        assert binomial_tail(round(share * n), n, 0.5) <= alpha < binomial_tail(round(share * n) - 1, n, 0.5)
    assert detectable_share(5, 0.5, 0.01) is None and detectable_share(0, 0.5, 0.01) is None


def test_the_tail_is_the_sum_of_its_chances() -> None:
    for hits, n, share in ((0, 7, 0.3), (4, 7, 0.3), (7, 7, 0.3), (60, 100, 0.5)):
        assert binomial_tail(hits, n, share) == pytest.approx(sum(binom.pmf(range(hits, n + 1), n, share)))
    assert 0 < binomial_tail(900, 1000, 0.5) < 1e-100


def test_nothing_to_read_proves_nothing() -> None:
    result = examined(pairs_observed([]), GreenRule(KEY), keys=19, seed=0)
    assert (result.n, result.p, result.hoeffding, result.permutation) == (0, 1.0, 1.0, 1.0)
    empty = examined(distributions_observed([], [], []), GreenRule(KEY), keys=19, seed=0)
    assert (empty.n, empty.p) == (0, 1.0)
    with pytest.raises(BadInputError, match="keys=0"):
        examined(pairs_observed([]), GreenRule(KEY), keys=0, seed=0)
