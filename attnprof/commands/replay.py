"""attnprof replay: one attention call as a program of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from attnprof.commands.options import OutputOption, RunArgument


def replay(
    run: RunArgument = None,
    call: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="The call's number, as attnprof check --format csv lists it."),
    ] = 0,
    output: OutputOption = None,
    force: Annotated[bool, typer.Option("-f", "--force-overwrite", help="Replace the file.")] = False,
) -> None:
    """Write a small Python program that makes one recorded attention call again, and times it.

    Its tensors are random, of the recorded sizes. Default name: replay-N.py; - is stdout.

    \b
    Examples:
      attnprof replay my-run --call 42
      attnprof replay my-run --call 42 -o - | python -
    """
    from attnprof.errors import UsageError
    from attnprof.files.output import writing_file
    from attnprof.report.replay import ncu_of_replay, replay_script
    from attnprof.runs.run import load
    from attnprof.safety.next_command import shell_word

    loaded = load(run)
    result = loaded.check()
    calls = result.calls
    found = next(
        (one for place, one in enumerate(calls) if (place if one.seq is None else one.seq) == call), None
    )
    if found is None:
        raise UsageError(
            f"there is no attention call {call}",
            hint=f"the run has {len(calls):,} calls" if len(calls) else "the run has no attention calls",
        )
    script = replay_script(found, call, loaded.name, result.version or "")
    if str(output) == "-":
        sys.stdout.write(script)
        return
    path = output or Path(f"replay-{call}.py")
    with writing_file(path, force=force, inputs=loaded.files) as out:
        out.write(script.encode("utf-8"))
    print(f"wrote {path}", file=sys.stderr)
    print(f"python {shell_word(path)}")
    if profiled := ncu_of_replay(found, f"python {shell_word(path)}"):
        print(profiled)
