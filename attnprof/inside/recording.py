"""``with attnprof.record("name") as run:`` records the block, without the command line."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING, Any

from attnprof.capture.own_recordings import join
from attnprof.capture.recording import RECORDERS, CaptureResult, RecorderName
from attnprof.errors import AttnprofError, RunError, UsageError
from attnprof.files import durable
from attnprof.gpus import gpu_from_options
from attnprof.instrument import Recorder, instrument
from attnprof.machine.gpu_devices import has_gpu
from attnprof.model import MODULES
from attnprof.runs.ingest import finish_recorded
from attnprof.runs.run import Run, load
from attnprof.runs.run_builder import new_run
from attnprof.safety.redact import redact_arguments
from attnprof.workloads import injected
from attnprof.workloads.child import TORCH_TRACE
from attnprof.workloads.written import INTERRUPTED, write_recorded

if TYPE_CHECKING:
    from attnprof.runs.run_builder import RunBuilder

_NAME = "recorded"
_FILLED = frozenset({"folder", "config", "_trace_path", "_opened"})  # of a Run, when its block has ended


class RecordedRun(Run):
    """The run of a block: it can be asked once the block has ended."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, name: str) -> Any:
        if name in _FILLED:
            raise RunError(f"{self.name} is still being recorded", hint="ask when its block has ended")
        raise AttributeError(name)

    def __repr__(self) -> str:
        recorded = "config" in self.__dict__
        return super().__repr__() if recorded else f"<attnprof run {self.name}: being recorded>"

    def _fill(self, run: Run) -> None:
        self.__dict__.update(run.__dict__)


@contextmanager
def record(
    name: str | None = None,
    *,
    force: bool = False,
    capture: str = "auto",
    gpu: str | None = None,
    modules: bool = False,
) -> Iterator[Run]:
    """Records the attention calls of the block, and of processes it starts, into the run ``name``.

    ``capture`` "torch" is torch.profiler, "none" the calls alone; "auto" is torch.profiler where a GPU is and
    nobody else profiles. ``gpu`` is what to predict for. ``modules``: ranges around a model's modules, which
    tell whose the GPU time is and cost time. Without a name it is "recorded", "recorded-2", …
    What the block raises leaves a run that says so, and is raised on; the run can be asked after it.
    Raises RunError where ``name`` is taken and not ``force``d, UsageError for what is no recorder or no GPU.
    """
    run = RecordedRun(name or _NAME)
    raised: BaseException | None = None
    try:
        with recording(
            run, named=name is not None, force=force, capture=capture, gpu=gpu, modules=modules
        ) as inside:
            try:
                yield run
            except BaseException as error:
                inside.error = raised = error
    except AttnprofError as failure:
        if raised is not None:
            raise raised from failure
        raise
    if raised is not None:
        raise raised


_handed: list[dict[str, str | None]] = []  # to what is started, by open block; first what was there before


@contextmanager
def _handed_down(variables: dict[str, str]) -> Iterator[None]:
    """What the block starts gets these variables; after it, those of the last block that is still open."""
    if not _handed:
        _handed.append({name: os.environ.get(name) for name in variables})
    mine: dict[str, str | None] = {**variables}
    _handed.append(mine)
    os.environ.update(variables)
    try:
        yield
    finally:
        _handed[:] = [one for one in _handed if one is not mine]
        for name, value in _handed[-1].items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if len(_handed) == 1:
            _handed.clear()


class Inside:
    """A block that is being recorded; ``error`` is what it raised."""

    def __init__(
        self, builder: RunBuilder, capture: RecorderName, notes: list[str], *, modules: bool = False
    ) -> None:
        self.error: BaseException | None = None
        self._builder, self._capture, self._notes = builder, capture, notes
        self._started = time.perf_counter()
        self._files = injected.ProcessFiles(injected.folder_of(builder.folder))
        self._recording = ExitStack()
        self._recorder = self._begin(modules)

    def _begin(self, modules: bool) -> Recorder:
        folder = self._builder.folder
        kind = "torch" if self._capture == "torch" else "none"
        given = injected.environment(kind, folder, os.environ)
        modules = modules or os.environ.get(MODULES) == "1"
        self._recording.enter_context(_handed_down({**given, MODULES: "1" if modules else "0"}))
        ranges, _ = injected.ranges_of(kind)
        # On the disk, so that a run can be made of it should this process be killed.
        recorder = Recorder(ranges, self._files.journal(), self._files.journal)
        self._recording.enter_context(instrument(recorder))
        if self._capture == "torch":
            from attnprof.instrument.torch_profiler import profiled

            self._recording.enter_context(profiled(folder / TORCH_TRACE))
        return recorder

    def stop(self) -> None:
        """Nothing is recorded any more."""
        with suppress(Exception):  # of torch.profiler: then there is no trace, which is said
            self._recording.close()
        self._recorder.paused = True  # should somebody have kept a function that records

    def leave_fork(self) -> None:
        """In a process that the block forked and that came to its end: its calls are its own."""
        self._files.finish(self._recorder)

    def finish(self, predict: dict[str, Any]) -> Path:
        """Makes the run and returns its folder."""
        folder, duration = self._builder.folder, time.perf_counter() - self._started
        code, error, interrupted = _ending(self.error)
        workload = write_recorded(
            folder, self._recorder, asked={"workload": "program", "max_new_tokens": None, "seed": None},
            facts={}, code=code, error=error, duration_s=duration,
        )  # fmt: skip
        self._files.remove()  # this process's own are written
        workload, notes = join(folder, workload)
        trace = folder / TORCH_TRACE
        notes = [*self._notes, *workload.pop("notes", ()), *notes]
        if self._capture == "torch" and not trace.exists():
            notes.append("torch.profiler left no trace: it may be in use by somebody else")
        if not workload["num_calls"]:
            notes.append("no attention call was recorded in the block")
        captured = CaptureResult(
            self._capture, None, [], code, workload, trace if trace.exists() else None, tuple(notes),
            interrupted=SIGINT if interrupted else None,
        )  # fmt: skip
        config = {
            **_begun(predict),
            "capture": captured.as_json(folder, self._builder.final),
            "workload": {key: value for key, value in workload.items() if key != "steps"},
        }
        return finish_recorded(self._builder, captured.trace, config, captured.status)


@contextmanager
def recording(
    run: RecordedRun,
    *,
    named: bool,
    force: bool = False,
    capture: str = "auto",
    gpu: str | None = None,
    modules: bool = False,
) -> Iterator[Inside]:
    """Records the block into the run that ``run`` becomes. Raises as :func:`record` does."""
    predict = _predict(gpu)
    chosen, notes = _recorder(capture)
    known = {"config": _begun(predict), "recorder": chosen, "nsys": None}
    with new_run(run.name, force=force, numbered=not named, known=known) as builder:
        pid = os.getpid()
        inside = Inside(builder, chosen, notes, modules=modules)
        try:
            yield inside
        finally:
            builder.kept = True  # what is there can be resumed, whatever stops the rest
            inside.stop()
            if os.getpid() != pid:
                inside.leave_fork()
            else:
                with durable.undisturbed():
                    folder = inside.finish(predict)
                run.name = folder.name
                run._fill(load(folder))


def _begun(predict: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "run", "command": redact_arguments(list(sys.argv)), "predict": predict}


def _predict(gpu: str | None) -> dict[str, Any]:
    from dataclasses import asdict

    target = gpu_from_options(gpu, None, None)
    return {"gpu": asdict(target)} if target else {}


def _recorder(capture: str) -> tuple[RecorderName, list[str]]:
    """torch.profiler or none, and why it is not the other."""
    if capture == "nsys":
        raise UsageError("nsys records whole programs", hint="attnprof run -- python script.py, or torch")
    if capture not in RECORDERS:
        raise UsageError(f"capture {capture} is none of auto, torch, none")
    if capture == "torch" or (capture == "auto" and has_gpu()):
        if not _is_profiling():
            return "torch", []
        return "none", ["torch.profiler is in use already: attention calls are recorded, kernels are not"]
    return "none", []


def _is_profiling() -> bool:
    profiler = sys.modules.get("torch.autograd.profiler")
    return bool(getattr(profiler, "_is_profiler_enabled", False))


def _ending(error: BaseException | None) -> tuple[int, str | None, bool]:
    """(exit code, what is said, whether it was interrupted) of a block that raised this, or nothing."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return 0, None, False
    if isinstance(error, KeyboardInterrupt):
        return 128 + SIGINT, INTERRUPTED, True
    code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
    return code & 0xFF or 1, f"{type(error).__name__}: {error}", False
