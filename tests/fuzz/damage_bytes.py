"""Damage that knows nothing of the format: bits, cuts, zeros, pieces repeated, gzip."""

from __future__ import annotations

import gzip
from collections.abc import Callable

from tests.fuzz.dice import Dice

Damage = Callable[[Dice, bytes], bytes]


def flip_bytes(dice: Dice, content: bytes) -> bytes:
    """Single bytes changed, mostly near the front where headers are."""
    data = bytearray(content)
    for _ in range(dice.pick((1, 4, 64)) if data else 0):
        data[dice.early(len(data))] = dice.below(256)
    return bytes(data)


def flip_late_bytes(dice: Dice, content: bytes) -> bytes:
    """The same near the end, where a zip or Parquet file has its table of contents."""
    return flip_bytes(dice, content[::-1])[::-1]


def truncate(dice: Dice, content: bytes) -> bytes:
    """The file cut anywhere, or at a page."""
    end = dice.below(len(content) + 1)
    return content[: end // 4096 * 4096 if dice.chance(0.3) else end]


def zero_block(dice: Dice, content: bytes) -> bytes:
    """A page or the header overwritten with zeros, as a killed export leaves it."""
    size = dice.pick((16, 100, 4096))
    start = dice.pick((0, dice.below(len(content) + 1) // 4096 * 4096))
    return content[:start] + bytes(min(size, max(0, len(content) - start))) + content[start + size :]


def splice(dice: Dice, content: bytes) -> bytes:
    """A piece of the file repeated elsewhere in it."""
    if len(content) < 2:
        return content
    first, at = dice.below(len(content)), dice.below(len(content))
    return content[:at] + content[first : first + dice.below(8192)] + content[at:]


def append(dice: Dice, content: bytes) -> bytes:
    """Something behind the end."""
    return content + dice.pick((b"\0" * 4096, b"}", b"\n" * 1000, content[: dice.below(len(content) + 1)]))


def gzipped(dice: Dice, content: bytes) -> bytes:
    """Packed, and now and then damaged or packed again."""
    packed = gzip.compress(content, 1, mtime=0)
    if dice.chance(0.15):
        return gzip.compress(packed, 1, mtime=0)
    if dice.chance(0.15):
        return packed + packed  # members one behind the other are one file
    return dice.pick((flip_bytes, truncate, append))(dice, packed) if dice.chance(0.4) else packed


ANY: tuple[Damage, ...] = (flip_bytes, flip_late_bytes, truncate, zero_block, splice, append)


def damaged(dice: Dice, kinds: tuple[Damage, ...], content: bytes) -> bytes:
    """The content after one to three kinds of damage, which the recipe names."""
    for _ in range(dice.pick((1, 1, 1, 2, 3))):
        damage = dice.pick(kinds)
        dice.note(damage.__name__.strip("_"))
        content = damage(dice, content)
    return content
