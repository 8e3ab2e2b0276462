"""The command that somebody may paste into a shell next, whatever their files are called."""

from __future__ import annotations

import shlex
from os import PathLike

from attnprof.safety.quoting import quoted
from attnprof.safety.redact import redact


def shell_word(name: str | PathLike[str]) -> str:
    """A name or path as one word of a shell, home folders as ~ and without what is shaped like a secret."""
    text = str(name)
    return shlex.quote(text) if text.startswith("~") else quoted(redact(text))


def next_explanation(of: str | PathLike[str], call: int, *options: str) -> str:
    """``attnprof explain --call N OPTIONS --run OF``."""
    return " ".join(["attnprof", "explain", "--call", str(call), *options, "--run", shell_word(of)])


def next_command(command: str, of: str | PathLike[str], *options: str) -> str:
    """``attnprof COMMAND OPTIONS OF``, the options behind what it is of unless that looks like one too."""
    word = shell_word(of)
    if str(of).startswith("-"):
        return " ".join(["attnprof", command, *options, "--", word])
    return " ".join(["attnprof", command, word, *options])
