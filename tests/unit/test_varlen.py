"""Packing a padded batch and unpacking it again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnprof.workloads.varlen import cu_seqlens, pack, unpack


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 3), st.integers(1, 4))
def test_unpacking_gives_back_what_was_packed(lengths: list[int], spare: int, width: int) -> None:
    tokens = max(lengths) + spare
    padded = torch.zeros(len(lengths), tokens, width)
    for row, length in enumerate(lengths):
        padded[row, :length] = torch.randn(length, width)
    packed = pack(padded, torch.tensor(lengths))
    assert packed.values.shape == (sum(lengths), width)
    assert packed.lengths == lengths
    assert packed.max_seqlen == max(lengths)
    assert torch.equal(unpack(packed, tokens), padded)


def test_sequences_stand_one_behind_the_other_where_cu_seqlens_says() -> None:
    padded = torch.arange(12).reshape(2, 6)
    packed = pack(padded, torch.tensor([2, 5]))
    assert packed.cu_seqlens.tolist() == [0, 2, 7]
    assert packed.cu_seqlens.dtype == torch.int32
    assert packed.values.tolist() == [0, 1, 6, 7, 8, 9, 10]
    assert unpack(packed, 6, fill=-1).tolist() == [[0, 1, -1, -1, -1, -1], [6, 7, 8, 9, 10, -1]]


def test_the_padded_length_defaults_to_the_longest_sequence() -> None:
    packed = pack(torch.ones(3, 8, 2, 4), torch.tensor([3, 5, 1]))
    assert unpack(packed).shape == (3, 5, 2, 4)


def test_gradients_pass_through_both() -> None:
    padded = torch.ones(2, 3, requires_grad=True)
    unpack(pack(padded, torch.tensor([1, 3]))).sum().backward()
    assert padded.grad is not None
    assert padded.grad.tolist() == [[1, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("lengths", [[1, 7], [-1, 2], [1, 2, 3]])
def test_lengths_that_do_not_fit_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="lengths"):
        pack(torch.zeros(2, 6), torch.tensor(lengths))


def test_a_padded_length_below_the_longest_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        unpack(pack(torch.zeros(2, 6), torch.tensor([2, 5])), 4)


def test_cu_seqlens_begin_with_zero_and_end_with_the_total() -> None:
    assert cu_seqlens(torch.tensor([4, 0, 3])).tolist() == [0, 4, 4, 7]
