"""attnprof capture: profiles a server that runs, and makes a run of its ranks' traces."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnprof.commands.options import GpuOption, ReplaceRunOption, RunNameOption, SmOption, SmsOption

if TYPE_CHECKING:
    from attnprof.capture.serving import Server

_SECONDS = 5.0


def capture(
    url: Annotated[
        str, typer.Option(metavar="URL", help="Where the server answers, such as http://127.0.0.1:8000.")
    ],
    seconds: Annotated[
        float | None, typer.Option(metavar="S", help="Profile for S seconds. Default: 5.", min=0.1)
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Profile N steps of the engine instead.", min=1)
    ] = None,
    load: Annotated[
        int | None,
        typer.Option(metavar="N", help="Send N requests of random tokens at once meanwhile.", min=1),
    ] = None,
    trace_dir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where vLLM writes its traces, if its process does not say."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="S", help="Wait S seconds at most for the steps and the traces.", min=1)
    ] = 120.0,
    remote: Annotated[
        bool, typer.Option("--remote", help="Ask a server on another machine; --trace-dir must reach it.")
    ] = False,
    output: RunNameOption = None,
    force: ReplaceRunOption = False,
    gpu: GpuOption = None,
    sms: SmsOption = None,
    sm: SmOption = None,
) -> None:
    """Profile a running vLLM or SGLang server with its own torch profiler, all ranks as one run.

    A token that the server wants is read from ATTNPROF_SERVER_TOKEN, and written nowhere.

    \b
    Examples:
      attnprof capture --url http://127.0.0.1:8000 --seconds 5
      attnprof capture --url http://127.0.0.1:8000 --steps 32 --load 8
    """
    from attnprof.capture.server_traces import traces_in, wait_for_traces
    from attnprof.capture.serving import Load, address_of, find_server, start_profile, stop_profile
    from attnprof.errors import CaptureError, UsageError
    from attnprof.gpus import gpu_from_options
    from attnprof.runs.ingest import import_ranks
    from attnprof.runs.run_builder import refuse_taken
    from attnprof.safety.next_command import next_command

    if seconds is not None and steps is not None:
        raise UsageError("--seconds and --steps exclude each other", hint="give one of them")
    target = gpu_from_options(gpu, sms, sm)
    if output is not None:
        refuse_taken(output, force=force)
    server = find_server(address_of(url, remote=remote))
    folder = _folder(server, trace_dir, remote)
    before, sending = traces_in(folder), Load(server, load or 0)
    _say(f"profiling {server.engine} {server.version or ''} at {server.address}")
    start_profile(server, steps=steps, folder=str(folder))
    try:
        sending.begin()
        if steps is None:
            time.sleep(seconds or _SECONDS)
        else:
            wait_for_traces(folder, before, timeout)
    finally:
        stop_profile(server)
    paths = wait_for_traces(folder, before, timeout)
    if note := sending.note():
        _say(f"note: {note}")
    if not paths:
        raise CaptureError(
            f"{server.engine} left no trace in {folder}",
            hint="did it compute anything meanwhile? --load 8 gives it something to do",
        )
    about = {"engine": server.engine, "version": server.version, "model": server.model}
    stem = f"{server.engine}-{Path(server.model or 'server').name}"
    made, trace, ranks = import_ranks(
        paths, name=output, stem=stem, force=force, gpu=target, server=about, note=note or ""
    )
    rows = f"{len(trace.kernels):,} kernels, {len(trace.ranges):,} ranges"
    print(f"{made}: {ranks} rank{'s' if ranks > 1 else ''}, {rows}")
    print(f"next: {next_command('report', made.name)}")


def _folder(server: Server, given: Path | None, remote: bool) -> Path:
    """Where the traces will lie. Raises UsageError where nobody says."""
    from attnprof.capture.server_traces import trace_folder
    from attnprof.errors import UsageError

    if given is not None:
        return given.absolute()
    if server.engine == "sglang" and not remote:  # it takes the folder from us
        return Path(tempfile.mkdtemp(prefix="attnprof-traces-"))
    found = None if remote else trace_folder(server.port)
    if found is None:
        raise UsageError(
            f"where {server.engine} writes its traces is not known",
            hint="name the folder: --trace-dir FOLDER",
        )
    return found


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()
