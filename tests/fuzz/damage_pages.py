"""Damage to the b-trees of an SQLite file. Format: https://www.sqlite.org/fileformat.html"""

from __future__ import annotations

from tests.fuzz.damage_bytes import Damage, flip_bytes
from tests.fuzz.dice import Dice
from tests.fuzz.subjects import tables

_LEAF, _INTERIOR = 0x0D, 0x05


def page_size(content: bytes) -> int:
    """Bytes per page as the header states it; 4096 where it states nonsense."""
    size = int.from_bytes(content[16:18], "big")
    return 65536 if size == 1 else size if size >= 512 and size & (size - 1) == 0 else 4096


def pages_of(content: bytes, root: int) -> list[int]:
    """The numbers of a table's pages, each once, the root first."""
    size, found, open_pages = page_size(content), [], [root]
    while open_pages:
        number = open_pages.pop()
        page = content[(number - 1) * size : number * size]
        if number in found or number < 1 or len(page) < size:
            continue
        found.append(number)
        begin = 100 if number == 1 else 0
        if page[begin] == _INTERIOR:
            open_pages += _children(page, begin)
    return found


def _children(page: bytes, begin: int) -> list[int]:
    cells = int.from_bytes(page[begin + 3 : begin + 5], "big")
    pointers = [begin + 12 + 2 * cell for cell in range(min(cells, (len(page) - 12) // 2))]
    places = [int.from_bytes(page[at : at + 2], "big") for at in pointers]
    children = [int.from_bytes(page[at : at + 4], "big") for at in places]
    return [int.from_bytes(page[begin + 8 : begin + 12], "big"), *children]


def with_count(content: bytes, pages: int) -> bytes:
    """The file with a header that states so many pages."""
    return content[:28] + pages.to_bytes(4, "big") + content[32:]


def _page(dice: Dice, content: bytes) -> int | None:
    """A page of some table, and the table in the recipe."""
    roots = tables(content)
    if not roots:
        return None
    name = dice.pick(sorted(roots))
    pages = pages_of(content, roots[name])
    number = dice.pick(pages) if pages and dice.chance(0.6) else roots[name]
    dice.note(f"{name}[{number}]")
    return number


def cut_at_table(dice: Dice, content: bytes) -> bytes:
    """The file ends at or within a page of a table; the header may have been told."""
    number, size = _page(dice, content), page_size(content)
    if number is None:
        return flip_bytes(dice, content)
    kept = content[: (number - 1) * size + dice.pick((0, 0, 1, size // 2, size - 1))]
    return with_count(kept, len(kept) // size) if dice.chance(0.6) and len(kept) >= 100 else kept


def wreck_page(dice: Dice, content: bytes) -> bytes:
    """A table's page zeroed, replaced by another page, or with a broken header."""
    number, size = _page(dice, content), page_size(content)
    if number is None or number * size > len(content):
        return flip_bytes(dice, content)
    begin, end = (number - 1) * size, number * size
    other = dice.below(max(1, len(content) // size)) * size
    header = bytearray(content[begin:end])
    for _ in range(dice.pick((1, 3, 12))):
        header[dice.below(64)] = dice.below(256)
    page = dice.pick((bytes(size), content[other : other + size].ljust(size, b"\0"), bytes(header)))
    return content[:begin] + page + content[end:]


def cyclic_pointers(dice: Dice, content: bytes) -> bytes:
    """Children of an inner page that are the page itself, its root, or all the same one."""
    size, data = page_size(content), bytearray(content)
    inner = [n for n in range(1, len(content) // size) if content[n * size] == _INTERIOR]
    if not inner:
        return page_lattice(dice, content)
    begin = dice.pick(inner) * size
    page = content[begin : begin + size]
    cells = int.from_bytes(page[3:5], "big")
    target = dice.pick((begin // size + 1, _children(page, 0)[0], 1, 2**31)).to_bytes(4, "big")
    for cell in range(min(cells, (size - 12) // 2)):
        at = int.from_bytes(page[12 + 2 * cell : 14 + 2 * cell], "big")
        if at <= size - 4 and dice.chance(0.7):
            data[begin + at : begin + at + 4] = target
    return bytes(data)


def page_lattice(dice: Dice, content: bytes) -> bytes:
    """A small file whose table has billions of rows: inner pages that point to one page hundreds of times."""
    roots, size = tables(content), page_size(content)
    named = [name for name in sorted(roots) if 1 < roots[name] <= len(content) // size]
    if not named or len(content) % size:
        return flip_bytes(dice, content)
    name = dice.pick([name for name in named if name in _ASKED] or named)
    dice.note(name)
    leaf = next((n for n in pages_of(content, roots[name]) if content[(n - 1) * size] == _LEAF), None)
    if leaf is None:
        return flip_bytes(dice, content)
    data, below = bytearray(content), len(content) // size + 1
    begin = (roots[name] - 1) * size
    data += content[(leaf - 1) * size : leaf * size]  # the root may be the leaf
    for _ in range(dice.pick((1, 2, 3))):
        data += _pointing(below, size)
        below += 1
    data[begin : begin + size] = _pointing(below, size)
    return with_count(bytes(data), len(data) // size)


_ASKED = ("StringIds", "NVTX_EVENTS", "CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_RUNTIME",
          "CUPTI_ACTIVITY_KIND_GRAPH_TRACE", "DIAGNOSTIC_EVENT")  # fmt: skip


def _pointing(child: int, size: int) -> bytes:
    """An inner page as full as it can be, all of whose cells lead to ``child``."""
    cells = (size - 12 - 64) // 7
    content = b"".join(child.to_bytes(4, "big") + b"\x01" for _ in range(cells))
    first = size - len(content)
    head = bytes((_INTERIOR, 0, 0)) + cells.to_bytes(2, "big") + first.to_bytes(2, "big") + b"\0"
    head += child.to_bytes(4, "big")
    head += b"".join((first + 5 * cell).to_bytes(2, "big") for cell in range(cells))
    return head.ljust(first, b"\0") + content


PAGES: tuple[Damage, ...] = (
    cut_at_table,
    cut_at_table,
    wreck_page,
    wreck_page,
    cyclic_pointers,
    page_lattice,
)
