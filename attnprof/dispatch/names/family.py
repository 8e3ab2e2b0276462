"""A family of kernels: which library ships it, what part it plays, and how its names read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from attnprof.dispatch.names.late_pattern import LatePattern
from attnprof.dispatch.names.symbols import own_name

Role = Literal["main", "combine", "scheduler", "metadata", "backward", ""]
# What plans attention but attends to nothing: its time is no attention time.
PLANNING: frozenset[Role] = frozenset({"scheduler", "metadata"})
_LONGEST = 1024  # characters of an attention kernel's own name
_BOUNDS = (
    (r"(?:\w+::)*", r"(?:\w{1,60}::){0,6}"),
    (r"[\w:]*", r"[\w:]{0,80}"),
    (r"\w*", r"\w{0,120}"),
    (r"\w+", r"\w{1,120}"),
    (r"\d+", r"\d{1,6}"),
)


class Halves(IntEnum):
    """Whether one call launches a main kernel twice, each for half its heads: WHOLE may be a call each."""

    NONE = 0
    WHOLE = 1
    SPLIT = 2  # what adds up its splits follows the last


@dataclass(frozen=True, slots=True)
class Family:
    """A row matches the kernel's own name, or anything in it where the row says ``anywhere``.

    ``role``: "main" attends, "combine" adds up partial results, "scheduler" plans one call, "metadata" all
    calls of a step, "backward" is anything of a backward pass.
    """

    library: str
    name: str
    pattern: LatePattern
    role: Role = "main"
    anywhere: bool = False

    def matches(self, kernel_name: str, own: str | None = None) -> bool:
        """Whether the row is about a kernel, whose ``own`` name the caller may know."""
        text = kernel_name if self.anywhere else own_name(kernel_name) if own is None else own
        # A pattern may look at every pair of characters, so a name made to be long would take minutes.
        return (self.anywhere or len(text) <= _LONGEST) and self.pattern.search(text) is not None


def bounded(pattern: str) -> LatePattern:
    """A pattern whose ``\\w*``, ``\\w+``, ``\\d+`` and namespaces end after so many characters.

    Unbounded ones look at every pair of characters of a name that was made to be long.
    """
    for written, meant in _BOUNDS:
        pattern = pattern.replace(written, meant)
    return LatePattern(pattern)


def row(library: str, name: str, pattern: str, role: Role = "main", *, anywhere: bool = False) -> Family:
    """A row of a table of families."""
    return Family(library, name, bounded(pattern), role, anywhere)
