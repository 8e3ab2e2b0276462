"""attnprof export: a run for other programs."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from attnprof.commands.options import RunArgument

_LARGE = 500_000_000  # bytes


class ExportFormat(str, Enum):
    """What can be written."""

    PERFETTO = "perfetto"
    PARQUET = "parquet"
    CSV = "csv"
    SQLITE = "sqlite"


def export(
    run: RunArgument = None,
    to: Annotated[
        ExportFormat,
        typer.Option(
            "--to",
            help="perfetto: JSON for ui.perfetto.dev; parquet, csv: a folder of tables; sqlite: a database.",
        ),
    ] = ExportFormat.PERFETTO,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="PATH", help="Write there. Perfetto: .gz packs it, - is stdout."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("-f", "--force-overwrite", help="Replace what has this name.")
    ] = False,
    steps: Annotated[
        str | None,
        typer.Option(metavar="FIRST:LAST", help="Perfetto: only these steps, for a trace too large to open."),
    ] = None,
) -> None:
    """Write a run for Perfetto, pandas, a spreadsheet or SQL, with everything shaped like a secret left out.

    A folder or a database holds kernels, ranges and calls. Of a model whose layers differ, calls name the
    kind of layer in layer_kind, and the database counts them in the view layer_kinds.

    \b
    Examples:
      attnprof export my-run --to perfetto -o my-run.json.gz
      attnprof export trace.sqlite --steps 100:102
      attnprof export my-run --to parquet
    """
    from attnprof.runs.export import export as write
    from attnprof.runs.run import load

    loaded = load(run)
    path = write(
        loaded.recording, to.value, output, force=force, steps=_parse_steps(steps), inputs=loaded.files
    )
    if str(path) != "-":
        print(f"wrote {path}", file=sys.stderr)
        if to is ExportFormat.PERFETTO:
            large = path.stat().st_size > _LARGE
            advice = ", which may not take this much: --steps 100:110 writes a few steps" if large else ""
            print(f"open it in ui.perfetto.dev{advice}", file=sys.stderr)


def _parse_steps(text: str | None) -> tuple[int, int] | None:
    from attnprof.errors import UsageError

    if text is None:
        return None
    first, _, last = text.partition(":")
    if not first.isdecimal() or not (last or first).isdecimal():
        raise UsageError(f"--steps {text!r} names no steps", hint="for example --steps 100:102")
    return int(first), int(last or first)
