"""Records a workload: from what to run to the files in a run folder."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import Any, Literal

from attnprof.capture import nsys as nsys_capture
from attnprof.capture.environment import kept_environment
from attnprof.capture.process import Outcome, supervise
from attnprof.errors import EXIT_USAGE, CaptureError, UsageError
from attnprof.nsys import find_nsys, nsys_version
from attnprof.redact import redact_arguments
from attnprof.workloads.child import CALLS_FILE, HANDED, PID_FILE, TORCH_TRACE, WORKLOAD_FILE, Handed
from attnprof.workloads.spec import AttentionOptions, ChildSpec, GenerateOptions, Program, RangeKind

RecorderName = Literal["nsys", "torch", "none"]
RECORDERS = ("auto", "nsys", "torch", "none")
_RANGES: dict[RecorderName, RangeKind] = {"nsys": "nvtx", "torch": "torch", "none": "none"}


@dataclass(frozen=True)
class CaptureOptions:
    """What to record and with what. ``recorder`` "auto" is nsys where it is, torch.profiler where only a GPU
    is, else none. ``nsys`` names the program; ``grace_s`` is how long it may stay silent after the workload.
    ``keep_report`` leaves nsys's report in the run, with the environments it holds.
    """

    workload: GenerateOptions | AttentionOptions | Program
    recorder: str = "auto"
    nsys: str | None = None
    notes: tuple[str, ...] = ()
    grace_s: float = nsys_capture.GRACE_S
    keep_report: bool = False

    def __post_init__(self) -> None:
        if self.recorder not in RECORDERS:
            raise UsageError(f"--capture {self.recorder} is none of {', '.join(RECORDERS)}")


@dataclass(frozen=True)
class Plan:
    """The recorder that will be used, and why it is not another."""

    recorder: RecorderName
    program: Path | None = None
    version: str | None = None
    notes: tuple[str, ...] = ()

    def child(self, options: CaptureOptions, folder: Path) -> ChildSpec:
        """What the child is told."""
        work = options.workload
        return ChildSpec(
            str(folder.absolute()),
            _RANGES[self.recorder],
            generate=work if isinstance(work, GenerateOptions) else None,
            attention=work if isinstance(work, AttentionOptions) else None,
            program=work if isinstance(work, Program) else None,
            notes=options.notes,
        )

    def command(self, options: CaptureOptions, folder: Path) -> list[str]:
        """The exact command that records into ``folder``."""
        child = self.child(options, folder).command()
        if self.program is None:
            return child
        return nsys_capture.profile_command(self.program, folder.absolute(), child)


@dataclass(frozen=True)
class CaptureResult:
    """What a capture left. ``exit_code`` is the workload's own; ``trace`` is None where nothing recorded.

    ``notes`` are sentences for the reader of the run. ``workload`` is workload.json.
    """

    recorder: RecorderName
    version: str | None
    command: list[str]
    exit_code: int
    workload: dict[str, Any]
    trace: Path | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def status(self) -> str:
        """ "complete", or "failed" where the workload did."""
        return "failed" if self.exit_code else "complete"

    def as_json(self, folder: Path, final: Path) -> dict[str, Any]:
        """run.json's "capture"; paths name the run's ``final`` folder instead of the one built in."""
        built_in, shown = str(folder.absolute()), str(final)
        return {
            "recorder": self.recorder,
            "version": self.version,
            "command": redact_arguments([part.replace(built_in, shown) for part in self.command]),
            "environment": kept_environment(os.environ),
            "exit_code": self.exit_code,
            "notes": list(self.notes),
        }


def plan(options: CaptureOptions) -> Plan:
    """Chooses the recorder. Raises UsageError where the one asked for is not there."""
    wanted = options.recorder
    if wanted == "torch" or wanted == "none":
        return Plan(wanted)  # type: ignore[arg-type]
    program = find_nsys(options.nsys)
    version = nsys_version(program) if program else None
    if program and version:
        return Plan("nsys", program, version)
    absent = f"{program} does not run" if program else f"{options.nsys or 'nsys'} was not found"
    if wanted == "nsys" or options.nsys:
        raise UsageError(
            f"{absent}: nothing to record with",
            hint="install Nsight Systems, give --nsys PATH, or leave --capture to choose",
        )
    if _has_gpu():
        return Plan("torch", notes=(f"{absent}: recorded with torch.profiler instead",))
    return Plan("none", notes=(f"{absent}, and no GPU: attention calls are recorded, there is no trace",))


def describe_command(plan: Plan, options: CaptureOptions, folder: Path) -> str:
    """The commands of a capture as a shell takes them, one per line."""
    lines = [f"mkdir -p {shlex.quote(str(folder.absolute()))}", shlex.join(plan.command(options, folder))]
    if plan.program is not None:
        lines.append(shlex.join(nsys_capture.export_command(plan.program, folder.absolute())))
    return " &&\n".join(lines)


def record(
    options: CaptureOptions,
    folder: Path,
    *,
    chosen: Plan | None = None,
    on_step: Callable[[int], None] | None = None,
) -> CaptureResult:
    """Runs the workload under the recorder; leaves calls.jsonl, workload.json and the trace in ``folder``.

    ``on_step`` is told now and then how many steps have begun. A workload that fails is a result like any
    other. Raises UsageError where the workload cannot be built, CaptureError where the recorder fails.
    """
    chosen = chosen or plan(options)
    folder = folder.absolute()
    pipe = _Pipe(on_step)
    handed: Handed = {} if pipe.write_end is None else {"progress": pipe.write_end}
    child = chosen.child(options, folder).command()
    notes = list(chosen.notes)
    try:
        if chosen.program is not None:
            outcome, command, said = nsys_capture.record(
                chosen.program,
                folder,
                child,
                os.environ,
                handed=handed,
                pass_fds=pipe.pass_fds,
                grace_s=options.grace_s,
                tick=pipe.read,
                keep_report=options.keep_report,
            )
            notes += said
        else:
            command = child
            environment = {**os.environ, HANDED: json.dumps(handed)}
            outcome = supervise(child, environment, pass_fds=pipe.pass_fds, tick=pipe.read)
    finally:
        pipe.close()
    workload = _workload(folder, outcome, options)
    code = workload["exit_code"] if outcome.outlived else outcome.exit_code
    if workload["status"] == "failed" and not isinstance(options.workload, Program):
        _raise_failure(workload)
    trace = _trace(folder, chosen)
    notes += workload.pop("notes", [])
    if workload["status"] == "complete" and not workload["num_calls"] and not _is_other(options.workload):
        notes.append(
            "no attention call was recorded: scaled_dot_product_attention and flash_attn are;"
            " eager attention, compiled graphs and other processes are not"
        )
    if chosen.recorder == "nsys" and trace is not None:
        notes += _missing_ranges(trace, workload, chosen)
    (folder / PID_FILE).unlink(missing_ok=True)
    (folder / CALLS_FILE).touch()
    return CaptureResult(chosen.recorder, chosen.version, command, code, workload, trace, tuple(notes))


def _is_other(workload: GenerateOptions | AttentionOptions | Program) -> bool:
    return isinstance(workload, Program) and workload.mode == "other"


def _has_gpu() -> bool:
    """An NVIDIA GPU by its device files: torch is not imported for it."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def _workload(folder: Path, outcome: Outcome, options: CaptureOptions) -> dict[str, Any]:
    """workload.json, or what can be said of a workload that died before writing it."""
    path = folder / WORKLOAD_FILE
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    code = outcome.exit_code
    how = (
        f"by {Signals(code - 128).name}" if code > 128 and code - 128 in set(Signals) else f"with code {code}"
    )
    generate = isinstance(options.workload, GenerateOptions)
    died: dict[str, Any] = {
        "workload": "generate" if generate else "program",
        "status": "failed",
        "exit_code": code,
        "error": f"the program ended {how} before its attention calls were written",
        "hint": None,
        "steps": [],
        "num_calls": 0,
        "versions": {},
        "device": None,
        "gpu": None,
    }
    path.write_text(json.dumps(died))
    return died


def _raise_failure(workload: dict[str, Any]) -> None:
    if workload["exit_code"] == EXIT_USAGE:
        raise UsageError(workload["error"], hint=workload.get("hint") or "")
    raise CaptureError(f"generate failed: {workload['error']}", exit_code=workload["exit_code"] or 1)


def _trace(folder: Path, chosen: Plan) -> Path | None:
    name = {"nsys": nsys_capture.EXPORT, "torch": TORCH_TRACE, "none": None}[chosen.recorder]
    return folder / name if name and (folder / name).exists() else None


def _missing_ranges(trace: Path, workload: dict[str, Any], chosen: Plan) -> list[str]:
    """Says so where the trace does not hold one range per recorded call."""
    calls, ranges = workload["num_calls"], nsys_capture.count_ranges(trace, "attn")
    if calls == ranges or (ranges and workload["status"] == "failed"):
        return []
    if ranges == 0:
        nvtx = workload["versions"].get("nvtx")
        return [
            f"no NVTX range arrived: nvtx {nvtx} is silent under nsys {chosen.version};"
            " pip install 'nvtx>=0.2.11,<0.2.12'"
        ]
    return [f"{calls} attention calls were recorded but {ranges} ranges arrived: some were lost"]


class _Pipe:
    """Numbers from the child, one per line; nothing at all where nobody listens."""

    def __init__(self, listener: Callable[[int], None] | None) -> None:
        self._listener = listener
        self._read_end: int | None = None
        self.write_end: int | None = None
        if listener is not None:
            self._read_end, self.write_end = os.pipe()
            os.set_blocking(self._read_end, False)

    @property
    def pass_fds(self) -> tuple[int, ...]:
        return () if self.write_end is None else (self.write_end,)

    def read(self) -> None:
        if self._listener is None or self._read_end is None:
            return
        try:
            lines = os.read(self._read_end, 65536).split()
        except BlockingIOError:
            return
        if lines:
            self._listener(int(lines[-1]))

    def close(self) -> None:
        for end in (self._read_end, self.write_end):
            if end is not None:
                os.close(end)
