"""num_splits_heuristic against the compiled original, scalar and vectorised."""

from __future__ import annotations

import csv
import gzip

import numpy as np
import pytest

from attnprof.dispatch import num_splits_array, num_splits_heuristic
from tests.conftest import GOLDEN


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    with gzip.open(GOLDEN / "fa2_num_splits.csv.gz", "rt") as lines:
        return np.array([[int(cell) for cell in row] for row in list(csv.reader(lines))[1:]])


def test_scalar_equals_the_compiled_original(rows: np.ndarray) -> None:
    assert len(rows) == 20_000
    wrong = [row for row in rows.tolist() if num_splits_heuristic(*row[:4]) != row[4]]
    assert wrong == []


def test_vectorised_equals_the_compiled_original(rows: np.ndarray) -> None:
    assert np.array_equal(num_splits_array(*rows[:, :4].T), rows[:, 4])


def test_float32_decides_where_float64_would_differ() -> None:
    assert num_splits_heuristic(91, 216, 40, 128) == 7


def test_vectorised_broadcasts_and_handles_no_room_to_split() -> None:
    got = num_splits_array(np.array([[4], [400]]), 216, np.array([0, 1, 2, 8]))
    assert got.tolist() == [[1, 1, 2, 8], [1, 1, 1, 1]]
