"""What ``tokenspeed_mla_decode`` decides on the host for E4M3 queries and cache, and for 16-bit ones.

Source: tokenspeed-mla 2.0.3, mla_decode.py (tokenspeed_mla_decode, _get_split_kv_and_workspace_size,
_get_reducer_d_tiles), mla_decode_fp8.py (get_split_kv, get_split_kv_simplified) and mla_helpers.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnprof.dispatch.heuristic import ceil_div
from attnprof.errors import UsageError

DEFAULT_VERSION = "2.0.3"
VERSIONS = (DEFAULT_VERSION, "2.0.4")  # whose Python files are the same
KEYS = 128  # of a tile
_SMALL, _LARGE = 64, 128  # query rows of a tile
_MOST_SMALL, _MOST_LARGE = 64, 32  # splits
_LEAST_ROOM = 4


def rules_for(version: str) -> None:
    """Raises UsageError for a version that nobody has run."""
    if version.strip().partition("+")[0] not in VERSIONS:
        raise UsageError(
            f"tokenspeed_mla {version} is not modelled: the versions known are {', '.join(VERSIONS)}",
            hint=f"give --version {DEFAULT_VERSION} to predict with its rules",
        )


@dataclass(frozen=True, slots=True)
class Tiles:
    """``rows``: of a tile, in one thread block of 64 or a cluster of two of 128.

    ``fold``: queries whose heads fill one tile together.  ``packed``: rows run on over queries' ends.
    ``of_request``: tiles of a request.
    """

    rows: int
    fold: int
    packed: bool
    of_request: int

    @property
    def cluster(self) -> int:
        return 2 if self.rows == _LARGE else 1


def tiles(num_heads: int, seqlen_q: int, *, sm100: bool) -> Tiles:
    """How the query rows of a request are tiled; the small tile is SM 10.0's alone."""
    rows = _SMALL if sm100 and num_heads * seqlen_q <= _SMALL else _LARGE
    most = min(seqlen_q, rows // num_heads)
    fold = next((n for n in range(most, 1, -1) if seqlen_q % n == 0), 1)
    whole = ceil_div(num_heads * seqlen_q, rows)
    if rows == _LARGE and whole < seqlen_q // fold:
        return Tiles(rows, 1, packed=True, of_request=whole)
    return Tiles(rows, fold, packed=False, of_request=seqlen_q // fold)


def num_splits(batch: int, tiled: Tiles, seqlen_k: int, num_sms: int, *, fp8: bool = True) -> int:
    """Splits of every request; in FP8 none of them empty for the longest, of ``seqlen_k`` keys."""
    key_tiles = ceil_div(seqlen_k, KEYS)
    at_once = max(1, num_sms // batch // (tiled.of_request * tiled.cluster))
    if not fp8:
        return min(at_once, _MOST_LARGE)
    if tiled.rows == _SMALL:
        waves = ceil_div(key_tiles, min(key_tiles, at_once))
        asked = min(ceil_div(key_tiles, waves), _MOST_SMALL)
    else:
        asked = min(at_once, _MOST_LARGE)
    return ceil_div(key_tiles, ceil_div(key_tiles, asked))


def reducer_bands(batch: int, seqlen_q: int, num_heads: int, num_sms: int) -> int:
    """Thread blocks that share an output row when splits are added up: 2 where that takes fewer waves."""
    rows = batch * seqlen_q * num_heads
    if rows >= num_sms:
        return 1
    return 2 if ceil_div(rows * 2, num_sms) < 2 * ceil_div(rows, num_sms) else 1


def reducer_room(splits: int) -> int:
    """Splits that the reducer is built for: the next power of two, at least 4."""
    return max(_LEAST_ROOM, 1 << (splits - 1).bit_length())
