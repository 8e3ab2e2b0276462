"""Records a workload: from what to run to the files in a run folder."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import Any, Literal

from attnprof.capture import nsys as nsys_capture
from attnprof.capture.environment import kept_environment
from attnprof.capture.exit_status import End, how_it_ended, with_own_recordings
from attnprof.capture.interrupt import InterruptError, interruptible
from attnprof.capture.nsys_files import EXPORT, export_command
from attnprof.capture.other_processes import OtherProcesses
from attnprof.capture.process import supervise
from attnprof.capture.saved_calls import Memory
from attnprof.capture.trace_facts import about_trace, is_empty
from attnprof.errors import EXIT_USAGE, CaptureError, UsageError
from attnprof.machine.find_nsys import find_nsys, nsys_version
from attnprof.machine.gpu_devices import has_gpu
from attnprof.safety.redact import redact_arguments
from attnprof.workloads.child import HANDED, PID_FILE, TORCH_TRACE, Handed
from attnprof.workloads.spec import AttentionOptions, ChildSpec, GenerateOptions, Program, RangeKind
from attnprof.workloads.written import CALLS_FILE, INTERRUPTED

RecorderName = Literal["nsys", "torch", "none"]
RECORDERS = ("auto", "nsys", "torch", "none")
_RANGES: dict[RecorderName, RangeKind] = {"nsys": "nvtx", "torch": "torch", "none": "none"}
_NO_CALLS = (
    "no attention call was recorded: scaled_dot_product_attention and flash_attn are; eager attention and"
    " compiled graphs are not"
)


@dataclass(frozen=True)
class CaptureOptions:
    """What to record and with what. ``recorder`` "auto" is nsys where it is and starts, torch.profiler where
    only a GPU is, else none. ``nsys`` names the program; ``grace_s`` is how long it may stay silent after the
    workload. ``keep_report`` leaves nsys's report in the run, with the environments it holds. ``modules``:
    each module of a model gets a range too. ``shapes``: torch.profiler records those of operators.
    """

    workload: GenerateOptions | AttentionOptions | Program
    recorder: str = "auto"
    nsys: str | None = None
    notes: tuple[str, ...] = ()
    grace_s: float = nsys_capture.GRACE_S
    keep_report: bool = False
    modules: bool = False
    shapes: bool = False

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
            modules=options.modules,
            shapes=options.shapes,
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

    ``notes`` are sentences for the reader of the run. ``workload`` is workload.json. ``failure`` is what went
    wrong with the recorder, ``interrupted`` the signal that ended the capture.
    """

    recorder: RecorderName
    version: str | None
    command: list[str]
    exit_code: int
    workload: dict[str, Any]
    trace: Path | None = None
    notes: tuple[str, ...] = field(default=())
    failure: CaptureError | None = None
    interrupted: Signals | None = None

    @property
    def status(self) -> str:
        """ "complete", "interrupted", or "failed" where the workload or the recorder did."""
        if self.interrupted is not None:
            return INTERRUPTED
        return "failed" if self.exit_code or self.failure else "complete"

    @property
    def shown_exit_code(self) -> int:
        """The exit code of a command that captures: the workload's own, if nothing else happened."""
        if self.interrupted is not None:
            return 128 + self.interrupted
        return self.exit_code or (self.failure.exit_code if self.failure else 0)

    @property
    def interrupted_at(self) -> str:
        """Where an interrupted capture ended, in words; "" for any other."""
        if self.interrupted is None:
            return ""
        steps, wanted = len(self.workload["steps"]), self.workload.get("max_new_tokens")
        at = f" at step {steps}" + (f" of {wanted}" if wanted else "") if steps else ""
        return f"interrupted by {self.interrupted.name}{at}"

    def as_json(self, folder: Path, final: Path) -> dict[str, Any]:
        """run.json's "capture"; paths name the run's ``final`` folder instead of the one built in."""
        built_in, shown = str(folder.absolute()), str(final)
        return {
            "recorder": self.recorder,
            "version": self.version,
            "command": redact_arguments([part.replace(built_in, shown) for part in self.command]),
            "environment": kept_environment(os.environ),
            "exit_code": self.exit_code,
            "interrupted": self.interrupted_at or None,
            "notes": [note.replace(built_in, shown) for note in self.all_notes],
        }

    @property
    def all_notes(self) -> list[str]:
        """The notes, and the recorder's failure with what to do about it."""
        if self.failure is None:
            return list(self.notes)
        return [*self.notes, "; ".join(part for part in (self.failure.message, self.failure.hint) if part)]


def plan(options: CaptureOptions) -> Plan:
    """Chooses the recorder. Raises UsageError where the one asked for is not there, or has no shapes."""
    chosen = _chosen(options)
    if options.shapes and chosen.recorder != "torch":
        raise UsageError(
            f"--shapes is torch.profiler's, not for {chosen.recorder}", hint="add --capture torch"
        )
    return chosen


def _chosen(options: CaptureOptions) -> Plan:
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
    return _without_nsys(absent)


def _without_nsys(why: str) -> Plan:
    if has_gpu():
        return Plan("torch", notes=(f"{why}: recorded with torch.profiler instead",))
    return Plan("none", notes=(f"{why}; without a GPU, attention calls are recorded and there is no trace",))


def describe_command(plan: Plan, options: CaptureOptions, folder: Path) -> str:
    """The commands of a capture as a shell takes them, one per line."""
    lines = [f"mkdir -p {shlex.quote(str(folder.absolute()))}", shlex.join(plan.command(options, folder))]
    if plan.program is not None:
        lines.append(shlex.join(export_command(plan.program, folder.absolute())))
    return " &&\n".join(lines)


def record(
    options: CaptureOptions,
    folder: Path,
    *,
    chosen: Plan | None = None,
    on_step: Callable[[int], None] | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> CaptureResult:
    """Runs the workload under the recorder; leaves calls.jsonl, workload.json and the trace in ``folder``.

    ``on_step`` is told now and then how many steps have begun, ``say`` takes sentences for the user who
    waits. A workload or recorder that fails after calls were made is a result like any other, and so is a
    capture that SIGINT, SIGTERM or SIGHUP ended. Raises UsageError where the workload cannot be built,
    InterruptError where nothing was captured yet or a second signal came, CaptureError where nothing began;
    with the recorder "auto" an nsys that does not start is done without.
    """
    chosen = chosen or plan(options)
    folder = folder.absolute()
    with ExitStack() as ends, interruptible(gently=True) as interruption:
        pipe, memory = ends.enter_context(closing(_Pipe(on_step))), ends.enter_context(closing(Memory()))
        others = OtherProcesses(folder)

        def tick() -> None:
            pipe.read()
            others.look()
            memory.save(folder)
            if interruption.number is not None and not isinstance(options.workload, Program):
                memory.require_calls(interruption.number)

        handed: Handed = {**pipe.handed, **memory.handed}
        session = nsys_capture.Session(
            os.environ, handed, (*pipe.pass_fds, *memory.pass_fds), options.grace_s, tick, say, interruption
        )
        recorded = None
        if chosen.program is not None:
            child = chosen.child(options, folder).command()
            try:
                recorded = nsys_capture.record(
                    chosen.program, folder, child, session, keep_report=options.keep_report
                )
            except CaptureError as error:
                only_nsys = options.recorder == "nsys" or options.nsys or options.keep_report
                if only_nsys or isinstance(error, InterruptError):
                    raise
                chosen = _without_nsys(error.message)
                say(f"{error.message}: going on without nsys")
        if recorded is None:
            recorded = _run(chosen.child(options, folder).command(), session, folder)
        end = with_own_recordings(folder, how_it_ended(folder, recorded.exit_code, memory))
        memory.remove(folder)
    return _result(options, chosen, folder, recorded, end, others.told(), interruption.number)


def _run(child: list[str], session: nsys_capture.Session, folder: Path) -> nsys_capture.Recording:
    """Runs the child without a recorder around it."""
    outcome = supervise(
        child,
        {**session.environment, HANDED: json.dumps(session.handed)},
        pass_fds=session.pass_fds,
        pid_file=folder / PID_FILE,
        tick=session.tick,
        interruption=session.interruption,
        say=session.say,
    )
    left = f"the program left processes running, recorded up to its end: {', '.join(outcome.left[:3])}"
    return nsys_capture.Recording(outcome, child, outcome.exit_code, [left] if outcome.left else [])


def _result(
    options: CaptureOptions,
    chosen: Plan,
    folder: Path,
    recorded: nsys_capture.Recording,
    end: End,
    told: list[str],
    interrupted: Signals | None,
) -> CaptureResult:
    workload = end.workload
    if end.failed_to_start and not isinstance(options.workload, Program):
        _raise_failure(workload)
    trace = _trace(folder, chosen)
    if interrupted is not None and not workload["num_calls"] and (trace is None or is_empty(trace)):
        raise InterruptError(interrupted, f"by {interrupted.name} before anything was captured")
    notes = [*chosen.notes, *recorded.notes, *workload.pop("notes", ()), *end.notes, *told]
    if (
        workload["status"] == "complete"
        and not workload["num_calls"]
        and not (told or end.notes or options.notes)
    ):
        notes.append(_NO_CALLS)
    if chosen.recorder == "torch" and trace is None and workload["num_calls"]:
        notes.append("torch.profiler writes its trace when the program ends by itself: there is none")
    if chosen.recorder == "nsys" and trace is not None:
        notes += about_trace(trace, workload, chosen.version, whole=interrupted is None)
    (folder / PID_FILE).unlink(missing_ok=True)
    (folder / CALLS_FILE).touch()
    return CaptureResult(
        chosen.recorder, chosen.version, recorded.command, end.exit_code, workload, trace, tuple(notes),
        recorded.failure, interrupted,
    )  # fmt: skip


def _raise_failure(workload: dict[str, Any]) -> None:
    if workload["exit_code"] == EXIT_USAGE:
        raise UsageError(workload["error"], hint=workload.get("hint") or "")
    raise CaptureError(
        f"{workload['workload']} failed: {workload['error']}", exit_code=workload["exit_code"] or 1
    )


def _trace(folder: Path, chosen: Plan) -> Path | None:
    name = {"nsys": EXPORT, "torch": TORCH_TRACE, "none": None}[chosen.recorder]
    return folder / name if name and (folder / name).exists() else None


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

    @property
    def handed(self) -> Handed:
        return {} if self.write_end is None else {"progress": self.write_end}

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
