"""attnprof explain: one attention call, from its arguments to its kernels."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnprof.commands.call_flags import call_flags, call_from_flags, engine_from_flags
from attnprof.errors import CannotTellError, UsageError

if TYPE_CHECKING:
    from attnprof.analysis.explain import Explanation
    from attnprof.analysis.measured_splits import MeasuredSplits
    from attnprof.runs.run import Run


class ExplainFormat(str, Enum):
    """How an explanation is written."""

    TABLE = "table"
    JSON = "json"
    MD = "md"


@call_flags
def explain(
    call_flags: dict[str, Any],
    call: Annotated[
        int | None,
        typer.Option(
            "--call", min=0, metavar="N", help="Explain the call with seq N of a run instead of flags."
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run", metavar="RUN", help="The run or trace that --call is of. Default: the newest run."
        ),
    ] = None,
    live_seqlen: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Keys really in the cache (fwd_kvcache): compare with the choice made from its capacity.",
        ),
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(
            metavar="EVIDENCE",
            help="Split counts timed on a GPU: evidence.json of benchmarks.gpu_evidence, or its folder.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw efficiency over num_splits (.png, .svg, .pdf)."),
    ] = None,
    output_format: Annotated[
        ExplainFormat, typer.Option("--format", help="table, json or md.")
    ] = ExplainFormat.TABLE,
) -> None:
    """Explain one attention call: every step to its split count, its launches, and how they fill the SMs.

    \b
    Examples:
      attnprof explain --seqlen-k 4096 --batch 8 --gpu a100 --plot efficiency.png
      attnprof explain --entry fwd_kvcache --seqlen-k 131072 --live-seqlen 1024
      attnprof explain --call 42 --run my-run
      attnprof explain --engine vllm --model qwen2.5-7b --gpu b200 --batch 64 --seqlen-k 4096
    """
    if call_flags["engine"] is not None:
        if call is not None or run is not None or live_seqlen is not None or plot is not None:
            raise UsageError(
                "--engine describes a layer and a step", hint="leave out --call, --run, --live-seqlen, --plot"
            )
        _write_engine(call_flags, output_format)
        return
    from attnprof.analysis.explain import explain as explain_call

    files: tuple[Path, ...] = ()
    timed = None
    if measured is not None:
        from attnprof.commands.measured_evidence import read_measured

        timed = read_measured(measured)
    if call is not None:
        from attnprof.runs.run import load

        if call_flags["seqlen_k"] is not None:
            raise UsageError("--call and --seqlen-k describe two calls", hint="give one of them")
        loaded = load(run)
        files = loaded.files
        explained = _of_run(loaded, call, run, call_flags, live_seqlen, timed)
    else:
        if run is not None:
            raise UsageError("--run needs --call", hint="name the call by its seq: --call 0 --run NAME")
        asked, gpu, version = call_from_flags(call_flags)
        explained = explain_call(asked, gpu, version, live_seqlen=live_seqlen, measured=timed)
    _write(explained, output_format)
    if plot is not None:
        from attnprof.report.dispatch_figures import plot_candidates
        from attnprof.report.figures import save_figure

        save_figure(plot_candidates(explained), plot, files)
        print(f"wrote {plot}", file=sys.stderr)


def _of_run(
    loaded: Run,
    seq: int,
    name: str | None,
    flags: dict[str, Any],
    live_seqlen: int | None,
    measured: list[MeasuredSplits] | None,
) -> Explanation:
    """The explanation of one call of a run, with what was observed of it."""
    from attnprof.analysis.explain import explain as explain_call
    from attnprof.gpus import gpu_from_options
    from attnprof.safety.next_command import next_command

    if not loaded.records:
        raise CannotTellError(
            f"{loaded.name} holds no attention call records, so no call has a number",
            hint="record with attnprof run, or describe the call with flags: --seqlen-k …",
        )
    target = gpu_from_options(flags["gpu"], flags["sms"], flags["sm"])
    result = loaded.check(gpu=target, library=flags["library"], version=flags["version"])
    checked = next((each for each in result.calls if each.seq == seq), None)
    if checked is None:
        known = [record.seq for record in loaded.records]
        raise UsageError(
            f"{loaded.name} has no call {seq}: its calls are {known[0]} to {known[-1]}",
            hint=f"{next_command('check', name or loaded.name, '--format', 'csv')} lists them",
        )
    if checked.call is None or result.gpu is None or result.version is None:
        raise CannotTellError(
            f"call {seq} of {loaded.name} cannot be explained: {checked.detail}",
            hint="attnprof models the launches of flash_attn and of torch's flash backend",
        )
    if live_seqlen is None and checked.call.entry == "fwd_kvcache":
        live_seqlen = _keys_in_use(next(each.fields for each in loaded.records if each.seq == seq))
    observed = checked if checked.observed is not None else None
    return explain_call(
        checked.call, result.gpu, result.version,
        live_seqlen=live_seqlen, observed=observed, measured=measured,
    )  # fmt: skip


def _keys_in_use(fields: dict[str, Any]) -> int | None:
    """The longest sequence in the cache of a recorded call, new keys included; None where not recorded."""
    used, new = fields.get("cache_seqlens"), fields.get("k_new")
    longest = max(used, default=None) if isinstance(used, list) else used
    return None if longest is None else int(longest) + (new[1] if new else 0)


def _write_engine(flags: dict[str, Any], output_format: ExplainFormat) -> None:
    from attnprof.analysis.engines import explain_engine
    from attnprof.report.engines import engine_markdown, engine_object, print_engine
    from attnprof.report.tables import print_json

    answer = explain_engine(*engine_from_flags(flags))
    if output_format is ExplainFormat.TABLE:
        print_engine(answer)
    elif output_format is ExplainFormat.JSON:
        print_json(engine_object(answer))
    else:
        print(engine_markdown(answer), end="")


def _write(explained: Explanation, output_format: ExplainFormat) -> None:
    from attnprof.report.explain import as_object, markdown, print_explanation
    from attnprof.report.tables import print_json

    if output_format is ExplainFormat.TABLE:
        print_explanation(explained)
    elif output_format is ExplainFormat.JSON:
        print_json(as_object(explained))
    else:
        print(markdown(explained), end="")
