"""attnprof names: what attention kernels' names state."""

from __future__ import annotations

from typing import Annotated

import typer

from attnprof.commands.options import RunArgument, TableFormat


def names(
    run: RunArgument = None,
    kernel: Annotated[
        list[str] | None,
        typer.Option("--kernel", metavar="NAME", help="A kernel's name, mangled or not, instead of a run's."),
    ] = None,
    output_format: Annotated[
        TableFormat,
        typer.Option("--format", help="table, json, csv or md; json, csv: whole names."),
    ] = TableFormat.TABLE,
) -> None:
    """Read the attention kernels' names: library, family, role, and the dtypes, tiles and flags they state.

    A flag that a generated name leaves out is shown as not set: of a name that a profiler cut, it may be.

    \b
    Examples:
      attnprof names my-run
      attnprof names --kernel cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x64x128
    """
    from attnprof.errors import UsageError
    from attnprof.report.kernel_names import names_table
    from attnprof.report.tables import write_table

    if kernel:
        if run is not None:
            raise UsageError("a run and --kernel were given", hint="give one of them")
        found: list[tuple[str, int | None]] = [(name, None) for name in kernel]
    else:
        from attnprof.analysis.kernels import kernel_totals
        from attnprof.errors import CannotTellError
        from attnprof.runs.run import load

        loaded = load(run)
        totals = [total for total in kernel_totals(loaded.trace) if total.library]
        if not totals:
            raise CannotTellError(
                f"{loaded.name} holds no attention kernel that attnprof knows",
                hint="attnprof report lists the kernels there are",
            )
        found = [(total.name, total.instances) for total in totals]
    table = names_table(found, objects=output_format is TableFormat.JSON)
    write_table(table, output_format.value)
