"""attnprof run: records a workload and makes a run of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnprof.commands.options import (
    GpuOption,
    LibraryOption,
    ReplaceRunOption,
    RunNameOption,
    ShapesOption,
    SmOption,
    SmsOption,
    VersionOption,
)
from attnprof.nouns import noun_of

if TYPE_CHECKING:
    from attnprof.capture.recording import CaptureOptions, CaptureResult, Plan
    from attnprof.runs.run_builder import RunBuilder


_NO_MODEL = frozenset({"prompt", "attn", "trust_remote_code", "left_padding", "static_cache"})
_CACHE = frozenset({"max_new_tokens", "num_splits", "page_size"})  # of kvcache, not of varlen


def run(
    program: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- PROGRAM ARGS...]", help="A program to record instead of generate()."),
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="generate (the default), or attention calls alone: kvcache (flash_attn_with_kvcache,"
            " needs a GPU), varlen (packed sequences).",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", help="Tokens to generate. Default: 128; 16 for kvcache."),
    ] = None,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="The prompt.")] = None,
    prompt_tokens: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="A prompt of N random tokens; A:B for an engine's shortest and longest. Default: 25; 512 for"
            " kvcache, varlen; 16:128 for an engine.",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="vllm or sglang: serve random prompts with that engine, offline."),
    ] = None,
    requests: Annotated[
        int | None, typer.Option(metavar="N", help="Prompts that the engine is given. Default: 8.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(metavar="N", help="Requests the engine holds at once. Default: all.")
    ] = None,
    engine_python: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The Python that has the engine. Default: attnprof's own."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="Sequences. Default: 1; 4 for kvcache, varlen.")
    ] = None,
    left_padding: Annotated[
        bool, typer.Option("--left-padding", help="Prompts of unequal lengths, padded on the left.")
    ] = False,
    static_cache: Annotated[
        bool, typer.Option("--static-cache", help="A KV cache of the final length from the start.")
    ] = False,
    num_splits: Annotated[
        int | None,
        typer.Option(metavar="N", help="Given to kvcache's calls. Default: 0, the library chooses."),
    ] = None,
    page_size: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens per page of a paged kvcache, a multiple of 256.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A preset (qwen2.5-7b, llama-3-8b, …: that model's attention, small random weights),"
            " a folder, or a hub id. Default: qwen2.5-7b.",
        ),
    ] = None,
    attn: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="sdpa, flash_attention_2, eager, … Default: flash_attention_2 where it and a GPU are,"
            " else sdpa.",
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(metavar="N", help="Decoder layers. Default: 2 for a preset."),
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="DEVICE", help="auto, cpu or cuda.")] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Of weights and random prompt."),
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run code that comes with a hub model."),
    ] = False,
    capture: Annotated[
        str,
        typer.Option(
            metavar="RECORDER",
            help="nsys, torch (torch.profiler), none (call records only) or auto.",
        ),
    ] = "auto",
    nsys: Annotated[str | None, typer.Option(metavar="PATH", help="The nsys to record with.")] = None,
    modules: Annotated[
        bool,
        typer.Option(
            "--modules",
            help="A range around each attention, MLP, norm, … of the model: it tells whose the GPU time is,"
            " and costs time.",
        ),
    ] = False,
    shapes: ShapesOption = False,
    keep_report: Annotated[
        bool,
        typer.Option(
            "--keep-report",
            help="Keep nsys's report for nsys-ui. It holds the environments of all processes nsys can see.",
        ),
    ] = False,
    output: RunNameOption = None,
    force: ReplaceRunOption = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the commands and run nothing."),
    ] = False,
    gpu: GpuOption = None,
    sms: SmsOption = None,
    sm: SmOption = None,
    library: LibraryOption = None,
    version: VersionOption = None,
) -> None:
    """Record a workload's attention calls, ranges and kernels, and make a run of them.

    Without a program or --workload, Hugging Face generate() on a small model with a real model's attention.
    The exit code is the workload's own.

    \b
    Examples:
      attnprof run --max-new-tokens 512
      attnprof run --model llama-3-8b --batch 8 --prompt-tokens 4000 --gpu a100
      attnprof run --batch 4 --prompt-tokens 200 --left-padding
      attnprof run --workload varlen --batch 8 --prompt-tokens 1024
      attnprof run --engine vllm --requests 16 --prompt-tokens 16:512 --concurrency 8
      attnprof run -- python script.py ARGS
    """
    from attnprof.capture.recording import CaptureOptions, describe_command, plan, record
    from attnprof.machine.process_guard import guarded
    from attnprof.runs import run_folders
    from attnprof.runs.run_builder import new_run, unused_name
    from attnprof.safety.next_command import next_command
    from attnprof.safety.redact import redact_arguments

    given = {
        "max_new_tokens": max_new_tokens,
        "prompt": prompt,
        "prompt_tokens": prompt_tokens,
        "batch": batch,
        "model": model,
        "attn": attn,
        "layers": layers,
        "device": device,
        "seed": seed,
        "trust_remote_code": trust_remote_code or None,
        "left_padding": left_padding or None,
        "static_cache": static_cache or None,
        "num_splits": num_splits,
        "page_size": page_size,
        "requests": requests,
        "concurrency": concurrency,
        "engine_python": engine_python,
    }
    given = {option: value for option, value in given.items() if value is not None}
    work, notes, stem = _workload(program or [], workload, engine, given)
    predict = _prediction(gpu, sms, sm, library, version)
    options = CaptureOptions(
        work, recorder=capture, nsys=nsys, notes=notes, keep_report=keep_report, modules=modules,
        shapes=shapes,
    )  # fmt: skip
    chosen = plan(options)
    name = output.removesuffix(".nsys-rep") if output else stem
    if dry_run:
        final = run_folders.run_folder(name if output else unused_name(name))
        print(describe_command(chosen, options, final))
        return
    _require_libraries(work)
    begun = {"kind": "run", "command": redact_arguments(["attnprof", *sys.argv[1:]]), "predict": predict}
    known = {"config": begun, "recorder": chosen.recorder, "nsys": nsys}
    with new_run(name, force=force, numbered=output is None, known=known) as builder:
        _say(f"recording {_describe(options)} {_with(chosen)}")
        with guarded(), _progress(options) as on_step:
            captured = record(options, builder.folder, chosen=chosen, on_step=on_step, say=_say)
        try:
            folder = _finish(builder, captured, begun)
        except SystemExit:
            if not builder.finished:
                _say(f"what was recorded is kept: {next_command('runs', builder.folder.name, '--resume')}")
            raise
    _summarise(folder, builder.folder, captured)
    raise typer.Exit(captured.shown_exit_code)


def _workload(
    program: list[str], kind: str | None, engine: str | None, given: dict[str, Any]
) -> tuple[Any, tuple[str, ...], str]:
    """(what to run, notes, the stem of the run's name)."""
    from attnprof.commands.engine_flags import ENGINE_ALONE, engine_workload, whole_number
    from attnprof.errors import UsageError
    from attnprof.workloads.presets import find_preset, preset_name
    from attnprof.workloads.spec import KINDS, AttentionOptions, GenerateOptions, parse_program

    if kind not in (None, *KINDS):
        raise UsageError(f"--workload {kind} is none of {', '.join(KINDS)}")
    if program and (kind is not None or engine is not None):
        given = ({"workload": kind} if kind is not None else {"engine": engine}) | given
    elif engine is not None:
        return engine_workload(engine, kind, given)
    elif not program:
        given = whole_number(given, "prompt_tokens")
    if not program and kind in ("kvcache", "varlen"):
        _refuse(given, kind, ENGINE_ALONE | _NO_MODEL | (_CACHE if kind == "varlen" else frozenset()))
        return AttentionOptions(kind, **given), (), kind  # type: ignore[arg-type]
    if not program:
        _refuse(given, "generate", ENGINE_ALONE | (_CACHE - {"max_new_tokens"}))
        options = GenerateOptions(**given)
        stem = preset_name(options.model) if find_preset(options.model) else Path(options.model).name
        return options, (), stem
    if given:
        from attnprof.safety.next_command import shell_word

        flag, named = _flag(next(iter(given))), shell_word(program[0])
        raise UsageError(
            f"{flag} is an option of the built-in workload, and {program[0]} is given to run",
            hint=f"an option of the program goes after it: attnprof run -- {named} … {flag} …",
        )
    parsed, notes = parse_program(program)
    return parsed, notes, Path(parsed.target).stem if parsed.mode != "command" else "command"


def _require_libraries(work: Any) -> None:
    """Raises UsageError where the built-in workload lacks its libraries; a program brings its own."""
    from attnprof.machine.extras import require
    from attnprof.workloads.spec import AttentionOptions, GenerateOptions

    if isinstance(work, GenerateOptions):
        require("generate()", "torch", "transformers")
    elif isinstance(work, AttentionOptions):
        require(f"--workload {work.kind}", "torch")


def _refuse(given: dict[str, Any], kind: str, foreign: frozenset[str]) -> None:
    """Raises UsageError for an option that the workload has no use for."""
    from attnprof.errors import UsageError

    for option in given:
        if option in foreign:
            raise UsageError(f"{_flag(option)} means nothing to --workload {kind}", hint="leave it out")


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")


def _prediction(
    gpu: str | None, sms: int | None, sm: str | None, library: str | None, version: str | None
) -> dict[str, Any]:
    """run.json's "predict": what was asked for, tried out now so that a bad name does not cost a run."""
    from dataclasses import asdict

    from attnprof.dispatch.libraries import DEFAULT_LIBRARY, default_version, predict
    from attnprof.gpus import DEFAULT_GPU, gpu_by_name, gpu_from_options
    from attnprof.model import AttentionCall

    target = gpu_from_options(gpu, sms, sm)
    asked: dict[str, Any] = {"gpu": asdict(target)} if target else {}
    if library or version:
        call = AttentionCall(library or DEFAULT_LIBRARY, "fwd", 1, 1, 1, 1, 1, 128)
        version = version or default_version(call.library)
        predict(call, target or gpu_by_name(DEFAULT_GPU), version)
        asked |= {"library": call.library, "version": version}
    return asked


def _describe(options: CaptureOptions) -> str:
    from attnprof.safety.redact import redact_command
    from attnprof.workloads.presets import find_preset, preset_name
    from attnprof.workloads.spec import DEFAULT_PROMPT_TOKENS, AttentionOptions, GenerateOptions

    work = options.workload
    if isinstance(work, AttentionOptions):
        return f"{work.kind}: {work.batch} sequences of up to {work.prompt_tokens} tokens,"
    if not isinstance(work, GenerateOptions) and work.kind != "program":
        return f"{work.kind}: {work.asked['requests']} requests, {work.asked['max_new_tokens']} tokens each,"
    if not isinstance(work, GenerateOptions):
        command = redact_command([work.target, *work.arguments])
        return command if work.mode != "command" else "python -c …"
    shown = preset_name(work.model) if find_preset(work.model) else work.model
    prompt = (
        "the prompt" if work.prompt is not None else f"{work.prompt_tokens or DEFAULT_PROMPT_TOKENS} tokens"
    )
    batch = f", batch {work.batch}" if work.batch > 1 else ""
    return f"{shown}: {prompt} + {work.max_new_tokens} generated{batch},"


def _with(chosen: Plan) -> str:
    if chosen.recorder == "nsys":
        return f"with nsys {(chosen.version or '').partition('-')[0]}"
    return "with torch.profiler" if chosen.recorder == "torch" else "without a profiler"


@contextmanager
def _progress(options: CaptureOptions) -> Iterator[Callable[[int], None] | None]:
    """A bar of the built-in workload's steps, on a terminal; a program has its own output."""
    from attnprof.workloads.spec import GenerateOptions

    if not sys.stderr.isatty() or not isinstance(options.workload, GenerateOptions):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    total = options.workload.max_new_tokens
    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading the model", total=total)

        def on_step(step: int) -> None:
            stage = "generating" if step < total else "writing the trace"
            bar.update(task, completed=step, description=stage if step else "loading the model")

        yield on_step


def _finish(builder: RunBuilder, captured: CaptureResult, begun: dict[str, Any]) -> Path:
    from attnprof.runs.ingest import finish_recorded
    from attnprof.runs.schema import STEPS

    config = {
        **begun,
        "capture": captured.as_json(builder.folder, builder.final),
        "workload": {key: value for key, value in captured.workload.items() if key not in STEPS},
    }
    folder = finish_recorded(builder, captured.trace, config, captured.status)
    captured.workload["num_calls"] = config["workload"]["num_calls"]  # with those that the trace tells
    return folder


def _summarise(folder: Path, built_in: Path, captured: CaptureResult) -> None:
    from attnprof.model import STEP_PHASES
    from attnprof.runs.run import load
    from attnprof.safety.next_command import next_command

    work = captured.workload
    steps = [step["phase"] for step in work.get("steps", ())]
    doubt = load(folder).disbelief if steps and folder.exists() else None
    parts = [f"{work['num_calls']} {noun_of(work['num_calls'], 'attention call')}"]
    if steps:
        counts = ", ".join(f"{steps.count(phase)} {phase}" for phase in STEP_PHASES if phase in steps)
        parts.append(f"{len(steps)} steps" + ("" if doubt else f" ({counts})"))
    if work.get("duration_s") is not None:
        parts.append(f"{work['duration_s']:.2f} s")
    for note in captured.as_json(built_in, folder)["notes"]:
        _say(f"note: {note}")
    if work["status"] == "failed":
        _say(f"note: {work['error']}")
    if captured.interrupted is not None:
        _say(f"note: {captured.interrupted_at}")
    if doubt:
        _say(f"note: {doubt}")
    print(f"{folder}: {', '.join(parts)}")
    print(f"next: {next_command('report', folder.name)}")


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")  # one write: the program writes there too
    sys.stderr.flush()
