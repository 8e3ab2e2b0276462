"""Attention kernels by name: whose they are, which part they play, and what their names state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.dispatch.names.stated_fields import stated_fields
from attnprof.report.tables import Column, Table

_NOTHING = "nothing"


def names_table(names: Iterable[tuple[str, int | None]], *, objects: bool = False) -> Table:
    """A row per (name, launches or None); of a name that is no attention kernel's, that it is none.

    ``states``: the fields in words, or with ``objects`` by name.
    """
    columns = (
        Column("kernel"), Column("library"), Column("family"), Column("role"),
        Column("launches", right=True), Column("states", wraps=True), Column("name"),
    )  # fmt: skip
    rows: list[tuple[Any, ...]] = []
    shown: list[list[str]] = []
    for name, launches in names:
        signature = parse_kernel_name(name)
        known = signature.library != ""
        fields = stated_fields(name) if known else ()
        family = signature.family if known else "no attention"
        words = _in_words(fields) if known else ""
        place = (signature.kernel, signature.library, family, signature.role or "")
        rows.append((*place, launches, dict(fields) if objects else words, name))
        count = "" if launches is None else f"{launches:,}"
        shown.append([*place, count, words, ""])  # a terminal has no room for the whole name
    return Table("names", columns, rows, shown)


def _in_words(fields: Iterable[tuple[str, object]]) -> str:
    """Fields as ``head_dim 128, causal, not split``."""
    words = []
    for field, value in fields:
        if isinstance(value, bool):
            words.append(field if value else f"not {field}")
        else:
            words.append(f"{field} {value}")
    return ", ".join(words) or _NOTHING
