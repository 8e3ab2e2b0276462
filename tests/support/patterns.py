"""Every pattern of the package, and texts of its own alphabet that would keep a bad one busy."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import attnprof
from attnprof.dispatch.names.late_pattern import LatePattern

if sys.version_info >= (3, 11):
    from re import _parser as sre_parse  # type: ignore[attr-defined]
else:
    import sre_parse

PACKAGE = Path(attnprof.__file__).parent
_ASKED = ("compile", "search", "match", "fullmatch", "sub", "subn", "split", "findall", "finditer")


def compiled() -> dict[str, re.Pattern[Any]]:
    """Where each pattern is kept, down to tables of them, and the pattern."""
    found: dict[str, re.Pattern[Any]] = {}
    for module in pkgutil.walk_packages(attnprof.__path__, "attnprof."):
        if module.name == "attnprof.__main__":
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            for number, pattern in enumerate(_inside(value)):
                found.setdefault(f"{module.name}.{name}[{number}]", pattern)
    kept: dict[re.Pattern[Any], str] = {}
    for name, pattern in found.items():
        kept.setdefault(pattern, name)  # as a module that imports it has it too
    return {name: pattern for pattern, name in kept.items()}


def _inside(value: Any, depth: int = 0) -> Iterator[re.Pattern[Any]]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, LatePattern):
        yield value.compiled
    elif depth < 4:
        items: Any = ()
        if isinstance(value, (list, tuple, set, frozenset)):
            items = value
        elif isinstance(value, dict):
            items = value.values()
        elif is_dataclass(value) and not isinstance(value, type):
            items = [getattr(value, one.name, None) for one in fields(value)]
        for item in items:
            yield from _inside(item, depth + 1)


def asked_whole(name: str) -> bool:
    """Whether a pattern, kept as ``module.NAME[0]``, is only matched from the beginning of a text."""
    kept = name.rpartition(".")[2].partition("[")[0]
    asked = re.compile(rf"\b{re.escape(kept)}\.({'|'.join(_ASKED)})\(")
    ways = {way for path in PACKAGE.rglob("*.py") for way in asked.findall(path.read_text(encoding="utf-8"))}
    return bool(ways) and ways <= {"match", "fullmatch"}


def written_in_place() -> tuple[dict[str, tuple[re.Pattern[Any], bool]], list[str]]:
    """(patterns that stand where they are used, and whether only matched from the beginning of a text;
    places whose pattern is no constant)."""
    found: dict[str, tuple[re.Pattern[Any], bool]] = {}
    computed, kept = [], set()
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "re"
                and node.func.attr in _ASKED
            ):
                continue
            where = f"{path.relative_to(PACKAGE)}:{node.lineno}"
            first = node.args[0]
            if isinstance(first, ast.Constant) and node.func.attr == "compile":
                kept.add(first.value)
            elif isinstance(first, ast.Constant):
                flags = re.IGNORECASE if "IGNORECASE" in ast.unparse(node) else 0
                flags |= re.MULTILINE if "MULTILINE" in ast.unparse(node) else 0
                found[where] = re.compile(first.value, flags), node.func.attr in ("match", "fullmatch")
            elif node.func.attr != "compile":
                computed.append(f"{path.relative_to(PACKAGE)}: {ast.unparse(first)}")
    known = {pattern.pattern for pattern in compiled().values()}
    return found, computed + [f"kept where it is not found: {text}" for text in kept - known]


def fragments(pattern: re.Pattern[Any]) -> list[str]:
    """Pieces of text that the pattern's own parts match: literals, one of each class, beginnings of it."""
    text = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    of_bytes = isinstance(pattern.pattern, bytes)
    tree = sre_parse.parse(text, pattern.flags & ~re.UNICODE if of_bytes else pattern.flags)
    made: dict[str, None] = {}
    _walk(tree, made)
    return [piece for piece in made if piece]


def _walk(tree: Any, made: dict[str, None]) -> None:
    """Every part below, by itself."""
    items = list(tree)
    for number, (op, given) in enumerate(items):
        made[_example(items[: number + 1], more=-1)] = None  # without what may be left out
        made[_example(items[: number + 1])] = None
        made[_example(items[: number + 1], more=2)] = None
        made[_example([items[number]])] = None
        for inner in _below(str(op), given):
            _walk(inner, made)


def _below(op: str, given: Any) -> list[Any]:
    if op in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        return [given[2]]
    if op == "SUBPATTERN":
        return [given[3]]
    if op in ("ASSERT", "ASSERT_NOT"):
        return [given[1]]
    if op == "BRANCH":
        return list(given[1])
    if op == "ATOMIC_GROUP":
        return [given]
    return []


def _example(items: Any, more: int = 0) -> str:
    """A text that the parts match: each repeat once or as often as it must, ``more`` times more where it may;
    with -1 as seldom as it may."""
    return "".join(_one(str(op), given, more) for op, given in items)


def _one(op: str, given: Any, more: int) -> str:
    if op == "LITERAL":
        return chr(given)
    if op == "NOT_LITERAL":
        return "x" if given != ord("x") else "y"
    if op == "ANY":
        return "x"
    if op == "IN":
        return _of_class(given)
    if op in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        low, high, inner = given
        return _example(inner, more) * (int(low) if more < 0 else min(max(int(low), 1) + more, int(high)))
    if op == "SUBPATTERN":
        return _example(given[3], more)
    if op == "ATOMIC_GROUP":
        return _example(given, more)
    if op == "BRANCH":
        return _example(given[1][0], more)
    return ""


_CATEGORY = {"CATEGORY_DIGIT": "1", "CATEGORY_SPACE": " ", "CATEGORY_WORD": "a", "CATEGORY_NOT_SPACE": "x",
             "CATEGORY_NOT_DIGIT": "x", "CATEGORY_NOT_WORD": "-"}  # fmt: skip


def _of_class(given: Any) -> str:
    """One character of a class."""
    kinds = [(str(op), value) for op, value in given]
    if kinds[0][0] == "NEGATE":
        left_out = "".join(_of_class([one]) for one in given[1:])
        patterns = [_of_class([one]) for one in given[1:]]
        return next(c for c in "xa1-./ \x1b" if c not in left_out and c not in patterns)
    op, value = kinds[0]
    if op == "LITERAL":
        return chr(value)
    if op == "RANGE":
        return chr(value[0])
    return _CATEGORY[str(value)]
