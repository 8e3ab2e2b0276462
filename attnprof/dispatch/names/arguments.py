"""Template arguments of a demangled name, and the literals among them."""

from __future__ import annotations

import re


def literal(text: str) -> int | None:
    """The integer or boolean that a template argument spells."""
    text = re.sub(r"^\((?:int|bool|unsigned int)\)", "", text.strip())
    if text in ("true", "false"):
        return int(text == "true")
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def template_arguments(name: str) -> list[str] | None:
    """The top-level template arguments of the first ``<…>``; None where there is none or it is cut."""
    start = name.find("<")
    if start < 0:
        return None
    arguments, depth, begin = [], 0, start + 1
    for position in range(start, len(name)):
        character = name[position]
        if character in "<(":
            depth += 1
        elif character in ">)":
            depth -= 1
            if depth == 0:
                arguments.append(name[begin:position].strip())
                return arguments
        elif character == "," and depth == 1:
            arguments.append(name[begin:position].strip())
            begin = position + 1
    return None


def numbers(name: str) -> list[int]:
    """Every integer or boolean template literal of a name in order, however it is spelled."""
    if name.startswith("_Z"):
        return [
            int(value)
            for value in re.findall(r"L(?:[a-z]|N?[A-Z0-9_][A-Za-z0-9_]{0,40}E)([0-9]{1,9})E", name)
        ]
    spelled = re.findall(r"(?<![\w.])(?:\([\w: ]{1,80}\))?(true|false|[0-9]{1,9})u?(?=\s*[,>])", name)
    return [int(value == "true") if value in ("true", "false") else int(value) for value in spelled]
