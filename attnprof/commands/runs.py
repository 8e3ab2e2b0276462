"""attnprof runs: the runs on disk."""

from __future__ import annotations

from typing import Annotated

import typer

from attnprof.commands.options import TableFormat


def runs(
    output_format: Annotated[
        TableFormat, typer.Option("--format", help="table, json, csv or md.")
    ] = TableFormat.TABLE,
) -> None:
    """List the runs under attnprof-runs (or $ATTNPROF_RUNS), newest first, and what is incomplete."""
    import sys

    from attnprof.report.tables import Column, Table, write_table
    from attnprof.store import list_runs, runs_root

    entries = list_runs()
    rows = [
        (
            entry.name,
            entry.status,
            entry.config.get("kind", ""),
            entry.config.get("created", ""),
            (entry.config.get("predict") or {}).get("gpu", {}).get("name", ""),
            entry.config.get("error", ""),
        )
        for entry in entries
    ]
    columns = tuple(Column(name) for name in ("name", "status", "kind", "created", "gpu", "note"))
    if not entries and output_format is TableFormat.TABLE:
        print(f"no runs in {runs_root()} yet; make one: attnprof run --max-new-tokens 512")
        return
    write_table(Table("runs", columns, rows), output_format.value)
    left = [entry for entry in entries if entry.status == "incomplete"]
    if left:
        print(
            f"{len(left)} incomplete, left by a killed command; remove with: rm -r", file=sys.stderr, end=""
        )
        print("".join(f" {entry.folder}" for entry in left), file=sys.stderr)
