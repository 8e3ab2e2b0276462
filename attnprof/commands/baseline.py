"""attnprof baseline: names for the runs that others are compared with."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from attnprof.commands.options import TableFormat


class Action(str, Enum):
    """What is done with a baseline."""

    SET = "set"
    LIST = "list"
    REMOVE = "remove"


def baseline(
    action: Annotated[
        Action,
        typer.Argument(help="set: let NAME stand for RUN; list: the names there are; remove: forget NAME."),
    ],
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The baseline's name, such as main.")
    ] = None,
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]", help="A run's name or folder, or a trace file. Default: the newest run."
        ),
    ] = None,
    output_format: Annotated[
        TableFormat, typer.Option("--format", help="Of list: table, json, csv or md.")
    ] = TableFormat.TABLE,
) -> None:
    """Name the runs that others are compared with, by attnprof diff --against NAME.

    The names are kept in baselines.json beside the runs; removing one leaves its run.

    \b
    Examples:
      attnprof baseline set main my-run
      attnprof diff --against main
      attnprof baseline list
    """
    from attnprof.errors import UsageError

    if (name is None) is not (action is Action.LIST) or (run is not None and action is not Action.SET):
        takes = {Action.SET: "NAME and RUN", Action.LIST: "nothing", Action.REMOVE: "NAME"}[action]
        raise UsageError(f"attnprof baseline {action.value} takes {takes}")
    if action is Action.LIST:
        _list(output_format)
        return
    from attnprof.runs.baselines import remove_baseline, set_baseline
    from attnprof.safety.next_command import next_command
    from attnprof.safety.printable import printable

    assert name is not None
    if action is Action.REMOVE:
        remove_baseline(name)
        print(f"removed {printable(name)}; its run stays")
        return
    made = set_baseline(name, run)
    print(f"{made.name} is {printable(made.run)}")
    print(f"next: {next_command('diff', 'NEW_RUN', '--against', made.name)}")


def _list(output_format: TableFormat) -> None:
    from attnprof.report.tables import Column, Table, write_table
    from attnprof.runs.baselines import baselines

    rows = [(one.name, one.run, one.since) for one in baselines()]
    columns = (Column("name"), Column("run"), Column("since"))
    if not rows and output_format is TableFormat.TABLE:
        print("no baselines; attnprof baseline set main RUN makes one")
        return
    write_table(Table("baselines", columns, rows), output_format.value)
