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
    return pairs_observed(places([[]], [ids], window, by_window=False))


def of_flat_distributions(seed: int, windows: int = 60, width: int = 200) -> Observed:
    """Distributions of which some are sure and some are not, cut off where little is left."""
    probabilities = torch.distributions.Dirichlet(torch.full((width,), 0.05)).sample((windows,))
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
    squares = float(observed.weight_N @ observed.weight_N)
    for number in range(TRIALS):
        green, total = observed.under(GreenRule(Key.drawn(7, number), share))
        every["hoeffding"].append(hoeffding_bound(total, squares))
        if observed.pairs:
            every["binomial"].append(binomial_tail(round(green * observed.n), observed.n, share))
    every["permutation"] = [
        examined(observed, GreenRule(Key.drawn(8, number), share), keys=19, seed=number).permutation
        for number in range(TRIALS // 5)
    ]
    every["innocent"] = examined(observed, GreenRule(KEY, share), keys=400, seed=7).innocent
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
        observed = of_text(marked(rule, 1500, chance=0.5), window)
        result = examined(observed, rule, keys=199, seed=0)
        assert result.green > 0.57 and result.z > 5
        assert result.binomial is not None and result.binomial < 1e-6
        assert result.hoeffding < 1e-4 and result.permutation == 1 / 200
        assert result.false_alarms(0.01) <= binom.ppf(1 - SURE, 199, 0.01) / 199
        other = examined(observed, GreenRule(Key.drawn(1, 0), window=window), keys=199, seed=0)
        assert other.binomial is not None and other.binomial > 1e-4 and other.permutation > 1 / 200


def test_a_mark_shows_where_there_was_a_choice() -> None:
    """Few words in the same turns a hundred times: every pair is written by marked text and by unmarked, and how often
    tells them apart. Most windows have one continuation, and would drown the others."""
    rule, source = GreenRule(KEY), random.Random(5)
    green = rule.mask(torch.arange(600)[:, None], 600)

    def written(chance: float) -> Observed:
        rows: list[list[int]] = []
        for _ in range(80):
            ids: list[int] = []
            for turn in range(100):
                ids += [4 * turn, 4 * turn + 1, 4 * turn + 2]  # as they are always written
                choices = [500 + turn - 25 * way % 100 for way in range(4)]
                token = source.choice(choices)
                if not green[ids[-1], token] and source.random() < chance:
                    token = source.choice(choices)
                ids.append(token)
            rows.append(ids)
        return pairs_observed(places([[]] * 80, rows, 1, by_window=False))

    result = examined(written(0.8), rule, keys=199, seed=0)
    assert result.binomial is not None and result.binomial > 0.01  # each pair is there, green or not
    assert result.permutation <= 0.01 and result.z > 3
    assert examined(written(0.0), rule, keys=199, seed=0).permutation > 1 / 200


def test_distributions_with_green_mass_are_found() -> None:
    torch.manual_seed(1)
    rule = GreenRule(KEY, share=0.5)
    windows = [(w,) for w in range(150)]
    logits = torch.randn(150, 200) + 1.0 * rule.mask(torch.tensor(windows), 200)
    top = logits.softmax(-1).topk(40)
    observed = distributions_observed(windows, [*top.indices], [*top.values])
    result = examined(observed, rule, keys=199, seed=0)
    assert result.binomial is None and result.permutation == 1 / 200
    assert result.hoeffding < 1e-3 and 0.55 < result.green < 0.8
    unmarked = distributions_observed(windows, [*torch.randn(150, 200).softmax(-1).topk(40).indices], [*top.values])
    assert examined(unmarked, rule, keys=199, seed=0).permutation > 0.005


def test_one_text_a_thousand_times_is_one_text() -> None:
    """Counted a thousand times, its chance excess of green would be a detection under one key in six."""
    ids = text(3, length=120)
    once, often = places([[]], [ids], 1, by_window=False), places([[]] * 1000, [ids] * 1000, 1, by_window=False)
    assert often.counted == once.counted
    assert often.repeated == once.repeated + 999 * 119
    rules = [GreenRule(Key.drawn(2, number)) for number in range(300)]
    seen = pairs_observed(often)
    lucky = [rule for rule in rules if seen.under(rule)[0] > 0.55]
    assert len(lucky) > 20
    n = 1000 * len(once.counted)
    assert binomial_tail(round(0.55 * n), n, 0.5) < 1e-9  # what it would be otherwise
    ranks = [examined(seen, rule, keys=99, seed=number) for number, rule in enumerate(rules[:100])]
    assert sum(rank.permutation <= 0.05 for rank in ranks) <= binom.ppf(1 - SURE, 100, 0.05)
    assert min(rank.binomial or 1.0 for rank in ranks) > 1e-4
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
    assert (examined(of_text(copied), rule, 19, 0).binomial or 1.0) < 1e-3
    assert places([copied], [copied], 1, by_window=False).counted == []


def test_the_tail_is_the_sum_of_its_chances() -> None:
    for hits, n, share in ((0, 7, 0.3), (4, 7, 0.3), (7, 7, 0.3), (60, 100, 0.5)):
        assert binomial_tail(hits, n, share) == pytest.approx(sum(binom.pmf(range(hits, n + 1), n, share)))
    assert 0 < binomial_tail(900, 1000, 0.5) < 1e-100


def test_weights_are_those_of_the_probabilities() -> None:
    halves, sure = torch.tensor([0.5, 0.5]), torch.tensor([1.0])
    observed = distributions_observed([(1,), (2,)], [torch.tensor([3, 4]), torch.tensor([5])], [halves, sure])
    assert observed.weight_N.tolist() == [0.5, 0.5, 0.0] and observed.n == 2
    rare = pairs_observed(places([[]], [[1, 2, 3, 4]], 1, by_window=False))
    assert rare.weight_N.tolist() == [0.5, 0.5, 0.5]  # written once, all alike: the plain share of the pairs
    both = pairs_observed(places([[], [], []], [[1, 2], [1, 3], [4, 5]], 1, by_window=False))
    usual = 0.5 / 3  # the agreement where two can be compared
    assert both.weight_N.tolist() == pytest.approx([1 - usual / 3] * 2 + [1 - usual])


def test_nothing_to_read_proves_nothing() -> None:
    for nothing in (pairs_observed(places([], [], 1, by_window=False)), distributions_observed([], [], [])):
        result = examined(nothing, GreenRule(KEY), keys=19, seed=0)
        assert (result.n, result.z, result.hoeffding, result.permutation) == (0, 0.0, 1.0, 1.0)
    with pytest.raises(BadInputError, match="keys=0"):
        examined(nothing, GreenRule(KEY), keys=0, seed=0)
