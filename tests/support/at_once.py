"""Command lines that start at one moment: python -m tests.support.at_once, and ``at_once`` to call it.

Every process is a fork of one that has imported all there is to import: between the start and the run folder
there is nothing but the command.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.command import Done

_IMPORTED = (
    "attnprof.commands.run",
    "attnprof.runs.ingest",
    "attnprof.runs.run",
    "attnprof.runs.database",
    "pandas",
)


def at_once(commands: Sequence[Sequence[str]], folder: Path) -> list[Done]:
    """``attnprof`` with each of the argument lists, all side by side; their outputs go through ``folder``."""
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.at_once", str(folder)],
        input=json.dumps([list(command) for command in commands]),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return [
        Done(code, (folder / f"{number}.out").read_text(), (folder / f"{number}.err").read_text())
        for number, code in enumerate(json.loads(done.stdout))
    ]


def _main(folder: Path) -> None:
    commands = json.load(sys.stdin)
    for module in _IMPORTED:
        __import__(module)
    waits, starts = os.pipe()
    children = [_fork(command, folder / str(n), waits, starts) for n, command in enumerate(commands)]
    os.close(starts)  # the end of the pipe is the signal
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes))


def _fork(command: list[str], output: Path, waits: int, starts: int) -> int:
    child = os.fork()
    if child:
        return child
    os.close(starts)
    for descriptor, ending in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(output.with_suffix(ending), os.O_WRONLY | os.O_CREAT), descriptor)
    os.read(waits, 1)
    sys.argv = ["attnprof", *command]
    from attnprof.cli import main

    try:
        main()
    finally:
        sys.stdout.flush()
    sys.exit(0)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
