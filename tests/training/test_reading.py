"""What of a batch is read: distinct rows, and columns that are no padding."""

from __future__ import annotations

import pytest
import torch

from distillknob.training.reading import PARTS, distinct_rows, padded_to, read_rows, without_padding


def test_each_row_is_that_of_the_first_one_like_it() -> None:
    ids = torch.tensor([[9, 9], [1, 2], [9, 9], [1, 2], [3, 0], [3, 0]])
    mask = torch.tensor([[1, 1], [1, 1], [1, 1], [1, 1], [1, 0], [1, 1]])  # the last two differ in their masks alone
    first, which = distinct_rows(ids, mask)
    assert first.tolist() == [0, 1, 4, 5]
    assert which.tolist() == [0, 1, 0, 1, 2, 3]
    assert torch.equal(ids[first][which], ids) and torch.equal(mask[first][which], mask)


def test_rows_without_a_repeat_stay_in_their_order() -> None:
    ids = torch.tensor([[7, 1], [2, 9], [5, 5]])
    first, which = distinct_rows(ids, torch.ones_like(ids))
    assert first.tolist() == which.tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", [torch.bool, torch.long, torch.int32])
def test_columns_that_are_padding_in_every_row_are_left_out_at_both_ends(kind: torch.dtype) -> None:
    mask = torch.tensor([[0, 0, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0]]).to(kind)
    ids = torch.arange(12).view(2, 6)
    read, read_mask, width = without_padding(ids, mask, completion=3)
    assert read.tolist() == [[1, 2, 3, 4], [7, 8, 9, 10]] and torch.equal(read_mask, mask[:, 1:5])
    assert width == 2
    values = torch.ones(2, width, 5)
    assert padded_to(values, 3).shape == (2, 3, 5) and float(padded_to(values, 3)[:, 2].abs().sum()) == 0
    assert padded_to(values, 2) is values


def test_a_column_of_the_prompts_and_one_of_the_completions_stay() -> None:
    nothing = torch.zeros(2, 6, dtype=torch.long)
    ids, _, width = without_padding(nothing, nothing, completion=2)
    assert (ids.size(1), width) == (5, 1)  # no column counts: none is known to be padding of the prompts' side
    prompts = torch.tensor([[0, 1, 1, 1, 0, 0]])
    ids, _, width = without_padding(prompts, prompts, completion=2)
    assert (ids.size(1), width) == (4, 1)
    completions = torch.tensor([[0, 0, 0, 0, 1, 1]])
    ids, _, width = without_padding(completions, completions, completion=2)
    assert (ids.size(1), width) == (3, 2)


def rows_of(lengths: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Prompts and completions of these lengths, each token with a number of its own."""
    prompt, completion = (max(sizes) for sizes in zip(*lengths, strict=True))
    mask = torch.zeros(len(lengths), prompt + completion, dtype=torch.long)
    for row, (before, behind) in zip(mask, lengths, strict=True):
        row[prompt - before : prompt + behind] = 1
    return mask.flatten().cumsum(0).view_as(mask) * mask, mask, completion


@pytest.mark.parametrize(
    ("lengths", "passes"),
    [
        ([(2, 9), (20, 3), (3, 2), (4, 30), (19, 2), (2, 2), (3, 31), (2, 10)], PARTS),
        ([(9, 9)] * 7 + [(9, 8)], 1),  # nothing is saved
        ([(2, 2)], 1),
    ],
)
def test_rows_of_similar_length_are_read_together_where_that_saves_padding(
    lengths: list[tuple[int, int]], passes: int
) -> None:
    ids, mask, completion = rows_of(lengths)
    read: list[torch.Tensor] = []

    def doubled(ids_BT: torch.Tensor, mask_BT: torch.Tensor, width: int) -> torch.Tensor:
        read.append(mask_BT)
        return 2 * ids_BT[:, -width:, None]

    values = read_rows(doubled, ids, mask, completion, alone=True, fewest_tokens=8)
    assert torch.equal(values, 2 * ids[:, -completion:, None])
    assert len(read) == passes and sum(int(part.sum()) for part in read) == int(mask.sum())
    assert sum(part.numel() for part in read) <= mask.numel() * (0.8 if passes > 1 else 1)
    read.clear()
    assert torch.equal(read_rows(doubled, ids, mask, completion, alone=False, fewest_tokens=8), values)
    assert len(read) == 1  # as on every other process
    read.clear()
    read_rows(doubled, ids, mask, completion, alone=True)
    assert len(read) == 1  # too few tokens to be worth several passes
