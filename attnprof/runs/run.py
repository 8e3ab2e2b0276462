"""A run as everything after capture sees it: its trace, its call records, its timeline and its verdicts."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attnprof.errors import RunError
from attnprof.files.compressed import readable
from attnprof.gpus import described_gpu
from attnprof.model import Gpu, Library
from attnprof.runs import run_folders
from attnprof.runs.folder_reading import OpenFolder
from attnprof.runs.schema import read_steps
from attnprof.safety.printable import printable
from attnprof.workloads.environment import COMPILED_NOTE

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from attnprof.calls.records import CallRecord
    from attnprof.check.check_run import CheckResult
    from attnprof.check.observed_calls import ObservedCalls
    from attnprof.check.recording import Recording
    from attnprof.trace.tables import Trace
    from attnprof.trace.timeline import Timeline

_SQLITE_COMPANIONS = (".sqlite", ".sqlite.gz", ".nsys-rep", ".qdstrm", ".json", ".json.gz", ".db", ".sqlite3")


class Run:
    """One recorded run or imported trace.

    Attributes are computed when first asked for. ``folder`` is None for a trace file opened as it is.
    A run that is replaced while it is read raises RunError; what was read before stays as it is.
    """

    def __init__(
        self, name: str, *, folder: Path | None, trace_path: Path | None, config: dict[str, Any]
    ) -> None:
        self.name, self.folder, self.config = name, folder, config
        self._trace_path = trace_path
        self._opened = OpenFolder(folder) if folder is not None else None

    def _reading(self) -> AbstractContextManager[None]:
        return self._opened.reading() if self._opened else nullcontext()

    def __repr__(self) -> str:
        return f"<attnprof run {self.name}: {self.config.get('kind', 'trace')}, {self.status}>"

    @property
    def files(self) -> tuple[Path, ...]:
        """The files it is read from, and the trace that it was imported from: what no output may replace."""
        named = self._trace_path or (self.config.get("source") or {}).get("path")
        given = [Path(named)] if isinstance(named, (str, Path)) else []
        found = [*given]
        with suppress(OSError, ValueError):
            found += [file for one in given if one.is_dir() for file in one.glob("*.parquet")]
        with suppress(OSError):
            found += self.folder.iterdir() if self.folder is not None else ()
        return tuple(found)

    @property
    def status(self) -> str:
        return str(self.config.get("status", "complete"))

    @property
    def ending(self) -> str:
        """How it ended, in words: "complete", "interrupted by SIGINT at step 37 of 512", "failed: …"."""
        return run_folders.ending(self.status, self.config)

    @cached_property
    def trace(self) -> Trace:
        """The recorded trace; one without any row for a run recorded without a profiler."""
        if self._trace_path is not None:
            from attnprof.trace.open_trace import open_trace

            return open_trace(self._trace_path)
        return self._saved[0]

    @cached_property
    def _saved(self) -> tuple[Trace, dict[str, Any]]:
        """The trace that the run folder keeps, and what is kept of its joins."""
        from attnprof.trace.saved_trace import load_trace

        assert self.folder is not None
        with self._reading():
            return load_trace(self.folder / run_folders.TRACE_NPZ)

    @cached_property
    def timeline(self) -> Timeline:
        """Each kernel with its launch, ranges, phase, step, layer and attention call."""
        from attnprof.trace.timeline import build_timeline, restore_timeline, without_phases

        trace = self.trace
        _, kept = self.__dict__.get("_saved", (None, {}))  # absent where the trace came from elsewhere
        timeline = restore_timeline(trace, kept) if kept else build_timeline(trace)
        return without_phases(timeline) if self.disbelief else timeline

    @cached_property
    def disbelief(self) -> str | None:
        """That phases and lengths of the steps could not be told, and why; None where they could."""
        from attnprof.check.step_claims import disbelief

        if self.folder is None or not self._has_calls:
            return None
        workload = self.config.get("workload") or {}
        with self._reading():
            steps, of_others = read_steps(self.folder)
        made = [{**workload, "steps": workload.get("steps") or steps}, *of_others]
        found = (disbelief(one["steps"], self._recorded, one) for one in made)
        why = next((one for one in found if one), None)
        return why and f"phases and lengths of the steps could not be told: {why}"

    def detailed_timeline(self) -> Timeline:
        """The timeline with what only nsys's own reports show, where the recorder's file is there to read."""
        from attnprof.trace.open_trace import open_trace
        from attnprof.trace.timeline import build_timeline

        recorded = self._trace_path or (self.folder and self.folder / run_folders.TRACE_SQLITE)
        if recorded is None or not recorded.exists():
            return self.timeline
        with self._reading():
            return build_timeline(open_trace(recorded, details=True))

    @cached_property
    def observed(self) -> ObservedCalls:
        """The attention calls whose kernels the trace holds."""
        from attnprof.check.observed_calls import observe

        return observe(self.timeline)

    @property
    def records_complete(self) -> bool:
        """Whether ``records`` holds every attention call; a profiler's operators may not, nor those of a
        program that torch.compile took parts of."""
        notes = (self.config.get("capture") or {}).get("notes") or ()
        return self._has_calls and not any(note.startswith(COMPILED_NOTE) for note in notes)

    @property
    def _has_calls(self) -> bool:
        return self.folder is not None and (self.folder / run_folders.CALLS_JSONL).exists()

    @cached_property
    def records(self) -> list[CallRecord]:
        """The attention calls as the program made them, or as a torch trace recorded them; else empty."""
        if not self.disbelief:
            return self._recorded
        return [replace(one, phase="other" if one.step is None else "unknown") for one in self._recorded]

    @cached_property
    def _recorded(self) -> list[CallRecord]:
        with self._reading():
            if self.folder is not None and self._has_calls:
                from attnprof.calls.records import read_records

                return read_records(self.folder / run_folders.CALLS_JSONL)
        if not self.trace.attention_ops:
            return []
        from attnprof.calls.torch_operators import op_records

        return op_records(self.trace)

    @property
    def database(self) -> Path:
        """attnprof.db in the present schema, written when it is first asked for.

        It is made anew where an older attnprof made it, or it is damaged.

        Raises RunError where there is no run folder, a newer attnprof made it, or it cannot be written.
        """
        from attnprof.runs.database import bring_up_to_date

        if self._opened is None:
            raise RunError(f"{self.name} is no run", hint="make a run of it: attnprof import")
        with self._reading():
            return bring_up_to_date(self._opened, self.write_database)

    def write_database(self, path: Path) -> None:
        """Writes the run as a database of its own."""
        from attnprof.runs.database import write_database

        write_database(path, self.config, self.timeline, self.check())

    @property
    def keys_of_step(self) -> dict[int, int]:
        """The KV length attention is given in each step, as the workload counted it; empty for traces."""
        workload = self.config.get("workload") or {}
        steps = () if self.disbelief else workload.get("steps") or ()
        known = (one for one in steps if one.get("step") is not None)
        counted = {int(one["step"]): int(one["seqlen_k"]) for one in known if one.get("seqlen_k")}
        if workload.get("cache") == "static":  # of full length from the first step on
            capacity = int(workload.get("prompt_tokens") or 0) + int(workload.get("max_new_tokens") or 0)
            return dict.fromkeys(counted, capacity)
        return counted

    @property
    def sms_of_devices(self) -> dict[int, int]:
        """SMs of each GPU that the trace describes."""
        info = self.trace.info
        described = {device.index: device for device in info.devices}
        described |= {index: found for index in self._devices_used if (found := info.device(index))}
        return {index: device.num_sms for index, device in described.items() if device.num_sms}

    @cached_property
    def _devices_used(self) -> list[int]:
        from attnprof.arrays import distinct

        used: list[int] = distinct(self.trace.kernels.device).tolist()
        return used

    @cached_property
    def observed_gpu(self) -> Gpu | None:
        """The GPU the kernels ran on, as far as the trace says; None without kernels or SM count."""
        kernels = self.trace.kernels
        used = int(kernels.device[0]) if len(kernels) else None
        device = None if used is None else self.trace.info.device(used)
        if device is None or not device.num_sms:
            return None
        sm = None if device.sm_major is None else (device.sm_major, device.sm_minor or 0)
        return described_gpu(device.name or f"GPU {used}", sm, device.num_sms)

    @cached_property
    def _argument(self) -> str:
        """What a command takes for it."""
        if self.folder is None:
            return str(self._trace_path)
        by_name = run_folders.run_folder(self.folder.name).absolute() == self.folder.absolute()
        return self.folder.name if by_name else str(self.folder)

    @cached_property
    def recording(self) -> Recording:
        """What this run holds, as the check, the analyses and the reports take it."""
        from attnprof.check.recording import Recording

        return Recording(
            self.name,
            self._argument,
            self.ending,
            self.folder is not None,
            self.timeline,
            self.observed,
            self.records,
            self.records_complete,
            self.config,
            self.keys_of_step,
            self.observed_gpu,
            self.sms_of_devices,
            self.disbelief,
        )

    def check(
        self, *, gpu: Gpu | None = None, library: Library | None = None, version: str | None = None
    ) -> CheckResult:
        """Observed against predicted, one verdict per attention call."""
        from attnprof.check.check_run import check

        return check(self.recording, gpu=gpu, library=library, version=version)

    @property
    def kernels(self) -> pd.DataFrame:
        """One row per GPU kernel; columns in ``attnprof.runs.dataframes``."""
        from attnprof.runs.dataframes import kernels_frame

        return kernels_frame(self.timeline)

    @property
    def ranges(self) -> pd.DataFrame:
        """One row per annotated CPU range; columns in ``attnprof.runs.dataframes``."""
        from attnprof.runs.dataframes import ranges_frame

        return ranges_frame(self.timeline)

    @property
    def calls(self) -> pd.DataFrame:
        """One row per attention call, with its verdict; columns in ``attnprof.runs.dataframes``."""
        from attnprof.runs.dataframes import calls_frame

        return calls_frame(self.check())

    @property
    def modules(self) -> pd.DataFrame:
        """What GPU time went to, per phase and kind of module; columns as ``report --table modules``."""
        from attnprof.runs.dataframes import modules_frame

        return modules_frame(self.timeline)

    @property
    def cache(self) -> pd.DataFrame:
        """K and V that attention reads in each step; columns as ``report --table cache_steps``."""
        from attnprof.runs.dataframes import cache_frame

        return cache_frame(self.recording)

    @property
    def processes(self) -> pd.DataFrame:
        """One row per process of a run that has several: its number, rank or name, steps and calls."""
        from attnprof.runs.dataframes import processes_frame

        return processes_frame((self.config.get("workload") or {}).get("processes") or ())

    def plot_splits(self) -> Figure:
        """num_splits and kernel over decode steps, as a matplotlib figure."""
        return self._draw("splits")

    def plot_step(self, step: int | None = None) -> Figure:
        """Every kernel of one decode step, a lane per stream; ``step`` defaults to the middle one."""
        return self._draw("step", step)

    def plot_phases(self) -> Figure:
        """GPU time per phase and kind of kernel."""
        return self._draw("phases")

    def plot_modules(self) -> Figure:
        """GPU time per phase and what the kernels work for: attention, MLP, norm, communication, …"""
        return self._draw("modules")

    def plot_attention_share(self) -> Figure:
        """Attention's share of each decode step's GPU time against the KV length."""
        return self._draw("share")

    def plot_roofline(self) -> Figure:
        """What attention reads and computes a second against the card's memory bandwidth."""
        return self._draw("roofline")

    def _draw(
        self,
        kind: Literal["splits", "step", "phases", "modules", "share", "roofline"],
        step: int | None = None,
    ) -> Figure:
        from attnprof.report.recording_figures import draw

        return draw(kind, self.recording, step)


def load(target: str | Path | None = None) -> Run:
    """The run called ``target``, in the folder ``target``, or of the trace file ``target``; else the newest.

    Raises RunError or TraceError where there is none, or it cannot be read.
    """
    if target is not None:
        path = Path(target)
        if _is_trace(path):
            return Run(printable(path.name), folder=None, trace_path=path, config={"kind": "trace"})
    return _open(run_folders.find_run(None if target is None else str(target)).folder)


def _is_trace(path: Path) -> bool:
    """Whether a path names a trace rather than a run, by what is there or by its ending."""
    with readable(path):
        if path.exists() and not (path.is_dir() and not any(path.glob("*.parquet"))):
            return True
    return bool(path.suffix) and str(path).endswith(_SQLITE_COMPANIONS)


def _open(folder: Path) -> Run:
    """The run in ``folder``; run.json is read while the folder is held, so that all else belongs to it."""
    run = Run(printable(folder.name), folder=folder, trace_path=None, config={})
    with run._reading():
        run.config = run_folders.read_run(folder).config
    return run


__all__ = ["Run", "RunError", "load"]
