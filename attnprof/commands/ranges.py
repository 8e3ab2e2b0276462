"""Whole numbers as people write ranges of them: ``4096``, ``1,8,32``, ``1:8192``, ``1:8192:128``."""

from __future__ import annotations

from dataclasses import dataclass

from attnprof.errors import UsageError

LARGEST = (1 << 31) - 1  # what the libraries count in
_FORMS = "give numbers and ranges first:last[:step], both ends included: 4096 or 1,8,32 or 1:8192:128"


@dataclass(frozen=True, slots=True)
class Ranges:
    """What one option asks for, not yet written out: ``parts`` may overlap."""

    option: str
    parts: tuple[range, ...]

    @property
    def at_most(self) -> int:
        """How many values there are, counting repeated ones."""
        return sum(map(len, self.parts))

    def values(self) -> list[int]:
        """The values, ascending, each once."""
        return sorted(set().union(*self.parts))


def parse_ranges(text: str, option: str, *, least: int = 1) -> Ranges:
    """The ranges that ``text`` writes. Raises UsageError naming the part that is none."""
    return Ranges(option, tuple(_part(part.strip(), option, least) for part in text.split(",")))


def _part(part: str, option: str, least: int) -> range:
    numbers = part.split(":")
    if not part or len(numbers) > 3:
        raise UsageError(f"{option}: {part!r} is no number and no range", hint=_FORMS)
    try:
        first = int(numbers[0])
        last = int(numbers[1]) if len(numbers) > 1 else first
        step = int(numbers[2]) if len(numbers) > 2 else 1
    except ValueError:
        raise UsageError(
            f"{option}: {part[:60]!r} holds something else than whole numbers", hint=_FORMS
        ) from None
    if max(abs(first), abs(last), abs(step)) > LARGEST:
        raise UsageError(f"{option}: {part[:60]} does not fit 32 bits", hint=_FORMS)
    if step < 1:
        raise UsageError(f"{option}: the step of {part} must be at least 1", hint=_FORMS)
    if last < first:
        raise UsageError(f"{option}: {part} ends before it begins", hint=f"write {last}:{first}")
    if first < least:
        raise UsageError(f"{option}: {part} begins below {least}", hint=f"begin at {least}")
    return range(first, last + 1, step)
