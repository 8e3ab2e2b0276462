"""Options and arguments that several commands take."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from attnprof.dispatch.libraries import LIBRARIES

RunArgument = Annotated[
    str | None,
    typer.Argument(metavar="RUN", help="A run's name or folder, or a trace file. Default: the newest run."),
]
GpuOption = Annotated[
    str | None,
    typer.Option(
        "--gpu", metavar="NAME", help="Predict for this GPU, as attnprof gpus lists it (a100, h200, 4090, …)."
    ),
]
SmsOption = Annotated[
    int | None,
    typer.Option("--sms", metavar="N", help="Predict for a GPU with N SMs; goes with --sm."),
]
SmOption = Annotated[
    str | None,
    typer.Option("--sm", metavar="X.Y", help="Compute capability of the GPU given by --sms, e.g. 9.0."),
]
VersionOption = Annotated[
    str | None,
    typer.Option(
        "--version",
        metavar="X.Y.Z",
        help="Library version to predict. Default: the run's, the installed one, else the newest.",
    ),
]
LibraryOption = Annotated[
    str | None,
    typer.Option(
        "--library",
        metavar="NAME",
        help=f"Library to predict: {', '.join(LIBRARIES)}.",
    ),
]
RunNameOption = Annotated[str | None, typer.Option("-o", "--output", metavar="NAME", help="Name of the run.")]
ReplaceRunOption = Annotated[
    bool, typer.Option("-f", "--force-overwrite", help="Replace a run of that name.")
]
ShapesOption = Annotated[
    bool,
    typer.Option(
        "--shapes",
        help="torch.profiler records operators' shapes too: calls inside torch.compile's graphs. It doubles"
        " the trace.",
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", metavar="FILE", help="Write there instead of to the terminal; - is stdout."
    ),
]


class TableFormat(str, Enum):
    """How a result is written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"
