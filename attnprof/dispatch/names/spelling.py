"""A kernel's template as every recorder spells it, in one form: for comparing it argument by argument.

What a parser reads by name is compared by name (``template.py``); this sees the rest, such as the booleans of
the traits that are false in every build.
"""

from __future__ import annotations

import re
from functools import lru_cache

_CASTS = re.compile(r"\((?:int|bool|unsigned int|unsigned long|unsigned|long|char)\)")
_SUFFIX = re.compile(r"\b(\d{1,9})u?l{0,2}\b")  # of a literal, which others spell as a cast
_NAMESPACE = re.compile(r"\b[A-Za-z_]\w*::")
_GUARD = re.compile(r"enable_sm\w{1,40}<")  # FlashAttention-3 renamed it after 3.0.0
_ARGUMENTS = re.compile(r"[<>,]+")
_DSL, _OBJECT = "kernel_cutlass_", "_object_at_"
_SHOWN = 40  # characters of an argument
_WORDS = {"true": "1", "false": "0"}


@lru_cache(maxsize=4096)
def plain_template(name: str) -> str | None:
    """The template arguments of a demangled name, without casts, spaces, ``true`` and namespaces.

    "" where the name has none; None of mangled names and of those that are cut before the template ends.
    """
    text = name.strip().removeprefix("void ")
    if text.startswith("_Z"):
        return None
    start, parenthesis = text.find("<"), text.find("(")
    if start < 0 or 0 <= parenthesis < start:
        return ""
    depth = 0
    for position in range(start, len(text)):
        if text[position] in "<(":
            depth += 1
        elif text[position] in ">)":
            depth -= 1
            if not depth:
                return _plain(text[start + 1 : position])
    return None


def _plain(arguments: str) -> str:
    text = _NAMESPACE.sub("", _SUFFIX.sub(r"\1", _CASTS.sub("", arguments)))
    words = re.sub(r"\b(?:true|false)\b", lambda found: _WORDS[found.group()], _GUARD.sub("guard<", text))
    return re.sub(r"\s+", "", words)


def namespace(name: str) -> str | None:
    """What qualifies the kernel itself, "flash::", "cutlass::" or ""; None where a recorder drops namespaces.

    Every FlashAttention kernel names an element type of cutlass, which shows whether they are spelled.
    """
    if name.startswith("_Z") or "cutlass::" not in name:
        return None
    head, found, _ = re.split(r"[<(]", name.strip().removeprefix("void "), maxsplit=1)[0].rpartition("::")
    return head + found


def as_many_arguments(one: str, other: str) -> bool:
    """Whether both names are whole, and have as many template arguments, nested ones counted."""
    ours, theirs = plain_template(one), plain_template(other)
    if not ours or not theirs:
        return False
    return len(_ARGUMENTS.split(ours)) == len(_ARGUMENTS.split(theirs))


def argument_difference(predicted: str, observed: str) -> str:
    """The first template arguments in which two names differ, as ``ran x, predicted y``; "" where none do.

    "" too where one of them cannot be read.
    """
    wanted, ran = plain_template(predicted), plain_template(observed)
    if wanted is None or ran is None or wanted == ran:
        return ""
    theirs, ours = _ARGUMENTS.split(ran), _ARGUMENTS.split(wanted)
    pairs = ((a, b) for a, b in zip(theirs, ours, strict=False) if a != b)
    a, b = next(pairs, (ran[-_SHOWN:], wanted[-_SHOWN:]))
    shown = a if len(a) <= _SHOWN else f"{a[:_SHOWN]}…"
    return f"a template argument: ran {shown}, predicted {b}"


def spelling_difference(predicted: str, observed: str) -> str:
    """What differs in two demangled names of a kernel: a template argument, or the namespace; "" if nothing.

    Of names that the CuTe DSL makes, function, module and class.

    "" too where one of them cannot be read.
    """
    if found := argument_difference(predicted, observed):
        return found
    if predicted.startswith(_DSL) and observed.startswith(_DSL) and _OBJECT in observed:
        wanted, ran = (name.partition(_OBJECT)[0].removeprefix(_DSL) for name in (predicted, observed))
        return "" if wanted == ran else f"ran {ran[:_SHOWN]}, predicted {wanted[:_SHOWN]}"
    ours, theirs = namespace(predicted), namespace(observed)
    if ours is None or theirs is None or ours == theirs:
        return ""
    return f"in namespace {theirs or '(none)'}, predicted {ours or '(none)'}"
