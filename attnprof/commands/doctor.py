"""attnprof doctor: can this machine record, can this trace be believed?"""

from __future__ import annotations

from typing import Annotated

import typer

from attnprof.commands.options import TableFormat


def doctor(
    trace: Annotated[
        str | None,
        typer.Argument(
            metavar="[TRACE]",
            help="A run or trace file to examine. Default: examine this machine.",
            show_default=False,
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 on warnings too.")] = False,
    nsys: Annotated[str | None, typer.Option(metavar="PATH", help="The nsys to examine.")] = None,
    timeout: Annotated[
        float, typer.Option(metavar="S", min=1, help="Seconds that the test capture may take.")
    ] = 20.0,
    output_format: Annotated[
        TableFormat, typer.Option("--format", help="table, json, csv or md.")
    ] = TableFormat.TABLE,
) -> None:
    """Examine this machine, or a trace: OK, WARN or FAIL per line, each with its fix.

    The machine is examined with a real capture of a tiny program, and a generation of three tokens whose
    steps must be told apart, which takes some seconds. Exit code: 0
    usable, 1 where something fails (with --strict: or warns).

    \b
    Examples:
      attnprof doctor
      attnprof doctor --strict
      attnprof doctor trace.sqlite
    """
    from attnprof.commands.trial_capture import try_capture
    from attnprof.doctor.finding import exit_code
    from attnprof.doctor.machine import examine_machine
    from attnprof.doctor.printed_findings import findings_table, print_finding, verdict
    from attnprof.report.console import make_console
    from attnprof.report.tables import write_table
    from attnprof.safety.next_command import next_command

    if trace is None:
        from attnprof.commands.trial_generation import try_generation

        examined = examine_machine(
            nsys,
            try_capture=lambda program: try_capture(program, limit_s=timeout),
            try_generation=try_generation,
        )
    else:
        from attnprof.doctor.trace import examine_trace

        examined = examine_trace(trace)
    findings = []
    console = make_console()
    for finding in examined:
        findings.append(finding)
        if output_format is TableFormat.TABLE:
            print_finding(finding, console)
    code = exit_code(findings, strict=strict)
    if output_format is TableFormat.TABLE:
        ready = "attnprof run --max-new-tokens 512" if trace is None else next_command("report", trace)
        doctor_again = "attnprof doctor" if trace is None else next_command("doctor", trace)
        again = f"mend what fails, then {doctor_again}"
        console.out(f"\nverdict   {verdict(findings)}\nnext      {again if code else ready}")
    else:
        write_table(findings_table(findings), output_format.value)
    raise typer.Exit(code)
