"""attnprof runs: the runs on disk, and what killed commands left."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from attnprof.commands.options import TableFormat

if TYPE_CHECKING:
    from attnprof.runs.run_folders import RunEntry


def runs(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME...]", help="These runs alone. Default: all."),
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove the runs NAME..., or what killed commands left of them.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Make runs of what killed commands left of NAME....")
    ] = False,
    migrate: Annotated[
        bool, typer.Option("--migrate", help="Rewrite runs that an older attnprof wrote in today's schema.")
    ] = False,
    output_format: Annotated[
        TableFormat, typer.Option("--format", help="table, json, csv or md.")
    ] = TableFormat.TABLE,
) -> None:
    """List the runs under attnprof-runs (or $ATTNPROF_RUNS), newest first, and what is incomplete.

    \b
    Examples:
      attnprof runs
      attnprof runs --remove my-run
      attnprof runs --resume my-run
    """
    from attnprof.errors import UsageError

    names = names or []
    if remove + resume + migrate > 1:
        raise UsageError("--remove, --resume and --migrate exclude each other", hint="give one of them")
    if (remove or resume) and not names:
        flag = "--remove" if remove else "--resume"
        raise UsageError(f"{flag} needs the names of runs", hint="attnprof runs lists them")
    if remove:
        _remove(names)
    elif resume:
        _resume(names)
    elif migrate:
        _migrate(names)
    else:
        _list(names, output_format.value)


def _remove(names: list[str]) -> None:
    from attnprof.runs.unfinished_runs import remove

    for name in names:
        for folder in remove(name):
            print(f"{folder}: removed")


def _resume(names: list[str]) -> None:
    from attnprof.runs.run_folders import read_run
    from attnprof.runs.unfinished_runs import resume
    from attnprof.safety.next_command import next_command

    for name in names:
        for folder, status in resume(name):
            for note in (read_run(folder).config.get("capture") or {}).get("notes") or ():
                print(f"note: {note}", file=sys.stderr)
            print(f"{folder}: {status}")
            print(f"next: {next_command('report', folder.name)}")


def _migrate(names: list[str]) -> None:
    from functools import partial

    from attnprof.runs.database import migrate
    from attnprof.runs.run import load
    from attnprof.runs.run_folders import find_run, list_runs

    entries = [find_run(name) for name in names] or [entry for entry in list_runs() if entry.readable]
    for entry in entries:
        run = load(entry.folder)
        done = migrate(entry.folder, run.config, entry.schema, partial(getattr, run, "database"))
        print(f"{entry.folder}: " + (f"migrated from schema {entry.schema}" if done else "is up to date"))


def _list(names: list[str], output_format: str) -> None:
    from attnprof.report.tables import Column, Table, write_table
    from attnprof.runs import unfinished_folders
    from attnprof.runs.run_folders import list_runs, runs_root
    from attnprof.runs.unfinished_runs import leftover
    from attnprof.safety.next_command import next_command

    entries = list_runs()
    if names:
        wanted = set(names)
        entries = [
            one for one in entries if wanted & {one.name, unfinished_folders.intended_name(one.folder)}
        ]
    columns = tuple(
        Column(name, wraps=name == "note") for name in ("name", "status", "kind", "created", "gpu", "note")
    )
    if not entries and output_format == "table":
        what = f"called {' or '.join(names)} " if names else ""
        print(f"no runs {what}in {runs_root()} yet; make one: attnprof run --max-new-tokens 512")
        return
    write_table(Table("runs", columns, [_row(entry) for entry in entries]), output_format)
    left = [entry for entry in entries if entry.status in ("incomplete", "discarded")]
    if left:
        print(f"{len(left)} left by killed commands:", file=sys.stderr)
    for entry in left:
        print(f"  {entry.folder}: {leftover(entry.folder).text}", file=sys.stderr)
        if leftover(entry.folder).resumable:
            resume = next_command("runs --resume", entry.name)
            print(f"    make a run of it: {resume}", file=sys.stderr)
        print(f"    remove it: {next_command('runs --remove', entry.name)}", file=sys.stderr)


def _row(entry: RunEntry) -> tuple[str, ...]:
    from attnprof.runs.run_folders import ending
    from attnprof.runs.schema import SCHEMA
    from attnprof.safety.next_command import next_command

    config = entry.config.get("config") or entry.config  # of a run that is not finished, or of one that is
    note = config.get("error", "")
    if entry.status == "running":
        note = f"process {entry.config.get('pid')}"
    elif entry.schema < SCHEMA:
        note = f"schema {entry.schema}: {next_command('runs --migrate', entry.name)}"
    elif (how := ending(entry.status, config)) != entry.status:
        note = how.removeprefix("failed: ")
    return (
        entry.name,
        entry.status,
        config.get("kind", ""),
        entry.config.get("created") or entry.config.get("began", ""),
        ((config.get("predict") or {}).get("gpu") or {}).get("name", ""),
        note,
    )
