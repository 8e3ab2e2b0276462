"""Records a process that attnprof did not start itself: called in it when it looks for torch.

Each process leaves its journal in a folder that it was told, and what it wrote at its end beside it. Also of
the processes that were forked from one that is recorded.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from attnprof.instrument import instrument
from attnprof.instrument.journal import Journal, create_files
from attnprof.instrument.ranges import NoRanges, NvtxRanges, Ranges, RecordFunctionRanges
from attnprof.instrument.recorder import Recorder
from attnprof.workloads.spec import CHILD_MODULE

VARIABLE = "ATTNPROF_RECORD"  # RANGES|PACKAGE|FOLDER, in the environment of what is to be recorded
FOLDER = ".processes"  # in the run folder; its files are PID-TIME.ENDING
WRITTEN = ".jsonl"
TRACE = ".json.gz"
UNRECORDED = ".unrecorded"  # PID.unrecorded holds why
_RANK = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


def environment(ranges: str, folder: Path, before: Mapping[str, str]) -> dict[str, str]:
    """The variables with which every Python that is started records itself into the run ``folder``."""
    package = Path(__file__).resolve().parents[1]
    path = str(package / "workloads" / "on_path")
    others = [entry for entry in before.get("PYTHONPATH", "").split(os.pathsep) if entry and entry != path]
    place = folder_of(folder)
    with suppress(OSError):
        place.mkdir(exist_ok=True)
    return {VARIABLE: f"{ranges}|{package}|{place}", "PYTHONPATH": os.pathsep.join([path, *others])}


def folder_of(run: Path) -> Path:
    """Where the processes of a run leave their files."""
    return run / FOLDER


def ranges_of(kind: str) -> tuple[Ranges, str]:
    """The ranges of this kind, or silent ones and why."""
    kinds: dict[str, Callable[[], Ranges]] = {
        "nvtx": NvtxRanges,
        "torch": RecordFunctionRanges,
        "none": NoRanges,
    }
    try:
        return kinds[kind](), ""
    except ImportError as error:
        return NoRanges(), f"{error}: attention calls are recorded, their ranges are not in the trace"


class ProcessFiles:
    """The files of this process, and of those forked from it, in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.stem = folder, ""

    def journal(self) -> Journal:
        """A new journal, with what is known of this process. Raises OSError."""
        self.stem = str(self._folder / f"{os.getpid()}-{time.time_ns()}")
        made = Journal(*create_files(self.stem))
        for name, value in this_process().items():
            made.fact(name, value)
        return made

    def remove(self) -> None:
        """Removes this process's own files, whose content is elsewhere."""
        for ending in (".calls", ".texts", WRITTEN):
            Path(self.stem + ending).unlink(missing_ok=True)

    def finish(self, recorder: Recorder) -> None:
        """Writes what the journal could not hold: the values that tensors had."""
        if recorder.journal is None or not self.stem:
            return
        with suppress(OSError):
            for name, value in {**this_process(), **_at_the_end(recorder)}.items():
                recorder.journal.fact(name, value)
            unnamed = Path(self.stem + ".part")
            recorder.write(unnamed)
            unnamed.rename(self.stem + WRITTEN)


def this_process() -> dict[str, Any]:
    """What tells this process from the others of the program, as far as it is known now."""
    multiprocessing = sys.modules.get("multiprocessing.process")
    called = multiprocessing.current_process().name if multiprocessing else "MainProcess"
    known: dict[str, Any] = {
        "pid": os.getpid(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "command": list(sys.argv if CHILD_MODULE in sys.orig_argv else sys.orig_argv),
        "process_name": None if called == "MainProcess" else called,
    }
    rank = next((os.environ[name] for name in _RANK if os.environ.get(name, "").isdecimal()), None)
    distributed = sys.modules.get("torch.distributed")
    with suppress(Exception):
        if distributed is not None and distributed.is_initialized():
            rank = str(distributed.get_rank())
    return known if rank is None else {**known, "rank": int(rank)}


def _at_the_end(recorder: Recorder) -> dict[str, Any]:
    """Versions and GPU, which take longer to find out."""
    with suppress(Exception):
        from attnprof.machine.library_versions import versions
        from attnprof.workloads.environment import compiled_note, gpu

        if note := compiled_note():
            recorder.note(note)
        return {"versions": versions(), "gpu": gpu()}
    return {}


def begin(ranges: str, folder: str) -> None:
    """Records this process from now to its end. Raises where it cannot."""
    files = ProcessFiles(Path(folder))
    made, note = ranges_of(ranges)
    recorder = Recorder(made, files.journal(), files.journal)
    if note:
        recorder.note(note)
    recording, pid = ExitStack(), os.getpid()
    recording.enter_context(instrument(recorder))
    if ranges == "torch":
        from attnprof.instrument.torch_profiler import profiled

        recording.enter_context(profiled(Path(files.stem + TRACE)))

    def finish() -> None:
        if os.getpid() == pid:
            with suppress(Exception):
                recording.close()
        files.finish(recorder)

    atexit.register(finish)
