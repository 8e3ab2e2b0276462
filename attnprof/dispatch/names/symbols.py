"""A kernel's own qualified name, whether its symbol or a demangled spelling is given.

Itanium C++ ABI, as far as names go: nested names and the first template argument of a wrapper kernel.
"""

from __future__ import annotations

import re

# Kernels that run the functor named by their first type argument, and functors that only guard another.
_WRAPPERS = re.compile(
    r"(?:^|::)(?:device_kernel(?:_sm\d+)?|kentry\w*|kernel_entry\w*|Kernel2?|enable_sm\w+)$"
)
_MOST_WRAPPERS = 4
_LITERALS = re.compile(r"\s*(?:(?:\([\w: ]+\))?-?\d+u?|true|false|ck_tile::gfx\w+)\s*,")
_MANGLED_LITERAL = re.compile(r"L[a-z]-?\d+E|L[N\d]\w{1,200}?E\d+E")
_SUBSTITUTION = re.compile(r"S(?:t|[a-z]|[0-9A-Z]*_)")


def own_name(kernel_name: str) -> str:
    """The qualified name before template and call arguments; of a wrapper, that of what it wraps."""
    text = kernel_name.strip().removeprefix("void ").removesuffix(".kd")
    if text.startswith("_Z"):
        return _of_symbol(text)
    if text.startswith("kernel_cutlass_"):
        return text.partition("_object_at_")[0]
    for _ in range(_MOST_WRAPPERS):
        head = re.split(r"[<(]", text.replace("(anonymous namespace)", "unnamed"), maxsplit=1)[0]
        if not _WRAPPERS.search(head) or "<" not in text:
            return head
        text = text[text.index("<") + 1 :]
        while literal := _LITERALS.match(text):
            text = text[literal.end() :]
        text = text.strip()
    return head


def _of_symbol(symbol: str) -> str:
    at = 2
    name = ""
    for _ in range(_MOST_WRAPPERS):
        name, at = _nested(symbol, at)
        if not name:
            return symbol
        if not _WRAPPERS.search(name) or symbol[at : at + 1] != "I":
            return name
        at += 1
        while literal := _MANGLED_LITERAL.match(symbol, at):
            at = literal.end()
    return name


def _nested(symbol: str, at: int) -> tuple[str, int]:
    """The qualified name that begins at ``at``, and where it ends or its template arguments begin."""
    parts: list[str] = []
    nested = symbol[at : at + 1] == "N"
    at += nested
    while at < len(symbol):
        if symbol[at].isdigit():
            size = re.match(r"\d{1,4}", symbol[at:])
            if size is None:
                break
            at += len(size.group())
            parts.append(symbol[at : at + int(size.group())])
            at += int(size.group())
            if not nested:
                break
        elif nested and symbol[at] in "KL":
            at += 1
        elif found := _SUBSTITUTION.match(symbol, at):
            at = found.end()
        else:
            break
    return "::".join("unnamed" if part.startswith("_GLOBAL__N_") else part for part in parts), at
