"""One of a thing is not many."""

from __future__ import annotations

import pytest

from attnprof.nouns import count_of, noun_of


@pytest.mark.parametrize(
    ("number", "noun", "many", "told"),
    [
        (1, "attention call", "", "1 attention call"),
        (0, "range", "", "0 ranges"),
        (1, "query", "queries", "1 query"),
        (1024, "query", "queries", "1,024 queries"),
    ],
)
def test_a_number_and_its_noun_agree(number: int, noun: str, many: str, told: str) -> None:
    assert count_of(number, noun, many) == told
    assert told.endswith(noun_of(number, noun, many))
