"""The process that is recorded: ``python -m attnprof.workloads.child SPEC``, SPEC being JSON."""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict

from attnprof.errors import EXIT_USAGE, AttnprofError
from attnprof.model import MODULES
from attnprof.workloads.spec import ChildSpec, Program
from attnprof.workloads.written import INTERRUPTED, write_recorded

if TYPE_CHECKING:
    from attnprof.instrument import Recorder
    from attnprof.instrument.journal import Journal
    from attnprof.workloads.injected import ProcessFiles

HANDED = "ATTNPROF_CHILD"  # environment variable with what is the user's own: Handed, as JSON
PID_FILE = "child.pid"
TORCH_TRACE = "trace.json.gz"


class Handed(TypedDict, total=False):
    """What a recorder changes on the way to the child, and the child changes back.

    ``stdio``: descriptors of stdout and stderr, past the recorder. ``tmpdir``: TMPDIR or None. ``umask``.
    ``progress``: descriptor that takes the number of steps begun, one per line. ``journal``: those of the
    two files of a Journal.
    """

    stdio: list[int]
    tmpdir: str | None
    umask: int
    progress: int
    journal: list[int]


def main(argv: list[str]) -> int:
    spec = ChildSpec.from_json(argv[0])
    folder = Path(spec.folder)
    handed: Handed = json.loads(os.environ.pop(HANDED, "{}"))
    if "umask" in handed:
        os.umask(handed["umask"])
    (folder / PID_FILE).write_text(str(os.getpid()))
    _take_up_stdio(handed)
    _take_up_tmpdir(handed)
    if spec.modules:
        os.environ[MODULES] = "1"
    if spec.program is not None and spec.program.mode == "other":
        return _run_other(spec, spec.program)
    return _run_recorded(spec, handed)


def _take_up_stdio(handed: Handed) -> None:
    """The user's own stdout and stderr, so that output is not copied through the recorder and its trace."""
    for target, source in zip((1, 2), handed.get("stdio", ()), strict=False):
        with suppress(OSError):  # closed on the way here: what the recorder gave is used
            os.dup2(source, target)
            os.close(source)


def _take_up_tmpdir(handed: Handed) -> None:
    if "tmpdir" in handed:
        os.environ.pop("TMPDIR", None)
        if handed["tmpdir"] is not None:
            os.environ["TMPDIR"] = handed["tmpdir"]


def _run_other(spec: ChildSpec, program: Program) -> int:
    from attnprof.workloads.injected import environment

    os.environ.update(environment(spec.ranges, Path(spec.folder), os.environ))
    started = time.perf_counter()
    process = subprocess.Popen([program.target, *program.arguments])
    # SIGINT is sent to the whole group, as by a terminal; what this process alone gets is passed on to it.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    for passed_on in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(passed_on, _pass_on)
    code = process.wait()
    code = 128 - code if code < 0 else code
    _write(spec, None, {}, code, None, time.perf_counter() - started)
    return code


def _pass_on(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    os.killpg(os.getpgrp(), number)


def _run_recorded(spec: ChildSpec, handed: Handed) -> int:
    from attnprof.instrument import Recorder
    from attnprof.workloads.injected import ProcessFiles, environment, folder_of, ranges_of

    ranges, silent = ranges_of(spec.ranges)
    forks = ProcessFiles(folder_of(Path(spec.folder)))
    recorder = Recorder(ranges, _journal(handed), forks.journal)
    if silent:
        recorder.note(silent)
    for name, value in _asked(spec).items():
        recorder.fact(name, value)
    for note in spec.notes:
        recorder.note(note)
    finish = _Finish(spec, recorder, handed, forks)
    if spec.program is None:
        code = finish.run(functools.partial(_run_workload, spec, recorder, finish))
        finish.write()
        return code
    os.environ.update(environment(spec.ranges, Path(spec.folder), os.environ))  # for what it starts
    # Registered before anything of the program's, so called after all of it: calls made at exit are kept.
    atexit.register(finish.at_exit)
    code = finish.run(functools.partial(_run_program, spec.program))
    if os.getpid() != finish.pid and spec.ranges == "torch":
        _leave_fork(code)  # a process that the program has forked came back from the program
    return code


class _Finish:
    """Records while something runs, and then writes what it made of it."""

    def __init__(self, spec: ChildSpec, recorder: Recorder, handed: Handed, forks: ProcessFiles) -> None:
        from attnprof.instrument import instrument

        self.pid = os.getpid()
        self.started = time.perf_counter()
        self.facts: dict[str, Any] = {}
        self._spec, self._recorder, self._forks = spec, recorder, forks
        self._duration = 0.0
        self._code = 0
        self._error: AttnprofError | str | None = None
        self._recording = ExitStack()
        for part in (instrument(recorder), _profiled(spec), _progress(recorder, handed)):
            self._recording.enter_context(part)
        self._recording.enter_context(_noting_exec(recorder))

    def run(self, work: Callable[[], int]) -> int:
        """The exit code of ``work``, what it raises being said."""
        try:
            self._code = work()
        except AttnprofError as failure:
            self._error, self._code = failure, EXIT_USAGE
        except KeyboardInterrupt:
            self._error, self._code = INTERRUPTED, 128 + signal.SIGINT
        except Exception as failure:
            traceback.print_exc()
            self._error, self._code = f"{type(failure).__name__}: {failure}", 1
        self._duration = time.perf_counter() - self.started
        return self._code

    def write(self) -> None:
        """Ends the recording and writes it. Raises OSError."""
        _finish_undisturbed()
        self._recording.close()
        _write(self._spec, self._recorder, self.facts, self._code, self._error, self._duration)

    def at_exit(self) -> None:
        """The same as the last thing that the interpreter does; a process that was forked writes its own."""
        if os.getpid() != self.pid:
            self._forks.finish(self._recorder)
            return
        try:
            self.write()
        except OSError as failure:
            _say_unwritten(failure)
            _flush()
            os._exit(1)


def _run_program(program: Program) -> int:
    from attnprof.workloads.program import run_program

    return run_program(program)


def _run_workload(spec: ChildSpec, recorder: Recorder, finish: _Finish) -> int:
    if not sys.warnoptions:  # nobody's program is running: what torch says of itself concerns nobody
        warnings.simplefilter("ignore")
    run = _prepare(spec, recorder)
    finish.started = time.perf_counter()
    finish.facts = run()
    return 0


def _prepare(spec: ChildSpec, recorder: Recorder) -> Callable[[], dict[str, Any]]:
    """The built-in workload: what runs it and returns its facts."""
    if spec.generate is not None:
        from attnprof.workloads import generate

        return generate.prepare(spec.generate, recorder)
    from attnprof.workloads import kvcache, packed

    assert spec.attention is not None
    prepare = kvcache.prepare if spec.attention.kind == "kvcache" else packed.prepare
    return prepare(spec.attention, recorder)


def _asked(spec: ChildSpec) -> dict[str, Any]:
    """What workload.json says of what was asked for."""
    options = spec.generate or spec.attention
    decodes = options is not None and spec.kind != "varlen"
    return {
        "workload": spec.kind,
        "max_new_tokens": options.max_new_tokens if options and decodes else None,
        "seed": options.seed if options else None,
        **(spec.program.asked if spec.program else {}),
    }


def _journal(handed: Handed) -> Journal | None:
    from attnprof.instrument.journal import Journal

    try:
        for descriptor in handed["journal"]:
            os.set_inheritable(descriptor, False)
        return Journal(*handed["journal"])
    except (KeyError, OSError):
        return None


def _leave_fork(code: int) -> NoReturn:
    """Ends a forked process without C's exit handlers: libkineto's waits for a thread that was not forked."""
    atexit._run_exitfuncs()
    _flush()
    os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()


def _say_unwritten(failure: OSError) -> None:
    """Of the run folder: a program's own are said where it runs."""
    print(f"attnprof: cannot write the attention calls: {failure.strerror}", file=sys.stderr)


def _finish_undisturbed() -> None:
    """The program has ended: nothing that asks it to end may stop its calls from being written."""
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _noting_exec(recorder: Recorder) -> Iterator[None]:
    """Leaves word where the program replaces itself by another: what comes then is not recorded."""
    replaced, pid = {name: getattr(os, name) for name in ("execv", "execve")}, os.getpid()

    def noting(name: str) -> Callable[..., Any]:
        @functools.wraps(replaced[name])
        def execute(path: Any, *arguments: Any) -> Any:
            if os.getpid() == pid:
                recorder.fact(
                    "exec", os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
                )
            return replaced[name](path, *arguments)

        return execute

    for name in replaced:
        setattr(os, name, noting(name))
    try:
        yield
    finally:
        for name, original in replaced.items():
            setattr(os, name, original)


@contextmanager
def _profiled(spec: ChildSpec) -> Iterator[None]:
    if spec.ranges != "torch":
        yield
        return
    from attnprof.instrument.torch_profiler import profiled

    with profiled(Path(spec.folder) / TORCH_TRACE, shapes=spec.shapes):
        yield


@contextmanager
def _progress(recorder: Recorder, handed: Handed) -> Iterator[None]:
    """Reports the number of steps a few times a second, from a thread of its own."""
    if "progress" not in handed:
        yield
        return
    done = threading.Event()

    def report() -> None:
        with suppress(OSError), os.fdopen(handed["progress"], "w", buffering=1) as pipe:
            while not done.wait(0.2):
                print(len(recorder.steps), file=pipe)
            print(len(recorder.steps), file=pipe)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(1)


def _write(
    spec: ChildSpec,
    recorder: Recorder | None,
    facts: dict[str, Any],
    code: int,
    error: AttnprofError | str | None,
    duration: float,
) -> None:
    if recorder and spec.ranges == "nvtx":
        from attnprof.workloads.environment import silent_nvtx

        if nvtx := silent_nvtx():
            recorder.note(
                f"the program's own ranges are lost: nvtx {nvtx} is too new for this nsys, 0.2.11 not"
            )
    write_recorded(
        Path(spec.folder), recorder, asked=_asked(spec), facts=facts, code=code, error=error,
        duration_s=duration, notes=spec.notes,
    )  # fmt: skip


def start(argv: list[str]) -> int:
    """``main``, with what the run folder refuses said in a line."""
    try:
        return main(argv)
    except KeyboardInterrupt:  # before anything of the program's ran, of which the recorder tells
        return 128 + signal.SIGINT
    except OSError as failure:
        _say_unwritten(failure)
        return 1


if __name__ == "__main__":
    sys.exit(start(sys.argv[1:]))
