"""``%load_ext attnprof``: the cell magic ``%%attnprof [NAME] [-f] [--capture RECORDER] [--gpu NAME]``."""

from __future__ import annotations

import argparse
import functools
import shlex
from typing import Any, NoReturn

from attnprof.errors import AttnprofError, UsageError
from attnprof.inside.recording import RecordedRun, recording
from attnprof.nouns import count_of


def load(shell: Any) -> None:
    """Registers the magic with an IPython shell."""
    magic = functools.wraps(record_cell)(functools.partial(record_cell, shell))
    shell.register_magic_function(magic, "cell", "attnprof")


def record_cell(shell: Any, line: str, cell: str) -> RecordedRun | None:
    """Records the attention calls of the cell, shows its split figure and returns its run.

    NAME is the run's, else one that is free; -f replaces a run of that name.
    """
    try:
        asked = _parser().parse_args(shlex.split(line))
        run = RecordedRun(asked.name or "cell")
        named = asked.name is not None
        with recording(run, named=named, force=asked.force, capture=asked.capture, gpu=asked.gpu) as inside:
            done = shell.run_cell(cell, store_history=False)
            inside.error = done.error_before_exec or done.error_in_exec  # printed by the shell
        return _shown(run)
    except (AttnprofError, ValueError) as error:
        hint = getattr(error, "hint", "")
        print(f"error: {error}" + (f"\n  try: {hint}" if hint else ""))
        return None


def _shown(run: RecordedRun) -> RecordedRun:
    from IPython.display import display

    calls = (run.config.get("workload") or {}).get("num_calls") or 0
    print(f"{run.folder}: {count_of(calls, 'attention call')}, {run.ending}")
    for note in (run.config.get("capture") or {}).get("notes") or []:
        print(f"note: {note}")
    if calls:
        try:
            display(run.plot_splits())  # type: ignore[no-untyped-call]
        except AttnprofError as error:  # no decode step
            print(f"note: {error}")
    return run


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=self.format_usage().strip())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="%%attnprof", add_help=False)
    parser.add_argument("name", nargs="?", metavar="NAME")
    parser.add_argument("-f", "--force-overwrite", action="store_true", dest="force")
    parser.add_argument("--capture", default="auto", metavar="RECORDER")
    parser.add_argument("--gpu", metavar="NAME")
    return parser
