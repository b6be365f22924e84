"""Random numbers by what a sample is."""

from __future__ import annotations

import torch

from distillknob.models.random_streams import occurrences, row_key, uniforms


def test_a_key_is_told_by_each_of_its_parts_and_by_nothing_else() -> None:
    key = row_key(0, [5, 6], 1)
    assert key == row_key(0, (5, 6), 1) and 0 <= key < 2**63
    others = [row_key(1, [5, 6], 1), row_key(0, [5], 1), row_key(0, [56], 1), row_key(0, [5, 6], 0)]
    assert len({key, *others}) == 5
    assert row_key("0/1", [5], 0) != row_key("0/2", [5], 0)


def test_a_stream_is_uniform_and_does_not_depend_on_how_much_of_it_is_read() -> None:
    keys = [row_key(0, [i], 0) for i in range(200)]
    drawn = uniforms(keys, 500)
    assert drawn.dtype == torch.float64 and drawn.min() >= 0 and drawn.max() < 1
    # The standard error of a share of 100,000 draws is 0.0016.
    for edge in (0.1, 0.5, 0.9):
        assert abs(float((drawn < edge).double().mean()) - edge) < 0.008
    # Streams of different keys have nothing in common: means of 500 spread as those of independent numbers do.
    assert 0.8 < float(drawn.mean(1).std()) / (1 / 12 / 500) ** 0.5 < 1.2
    assert torch.equal(uniforms(keys[3:5], 20), drawn[3:5, :20])
    assert uniforms([], 4).shape == (0, 4)


def test_a_stream_is_numpy_s_philox_on_every_machine() -> None:
    """Figures that rest on these numbers are to be had again in another year."""
    assert row_key(0, [1, 2, 3], 0) == 108004850650411661
    assert uniforms([1], 2).tolist() == [[0.3035680343067586, 0.8487087496857769]]


def test_occurrences_count_what_stood_before() -> None:
    assert occurrences(["a", "b", "a", "a", "b"]) == [0, 0, 1, 2, 1]
