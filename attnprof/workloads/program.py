"""Runs a Python program in this process the way the interpreter would."""

from __future__ import annotations

import runpy
import sys
import types
from pathlib import Path

from attnprof.workloads.spec import Program


def run_program(program: Program) -> int:
    """Runs the program as ``__main__`` and returns the exit code Python would end with.

    An exception is printed with the program's own frames. KeyboardInterrupt passes through.
    """
    try:
        _execute(program)
    except SystemExit as stop:
        return _exit_code(stop.code)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        error.__traceback__ = _own_frames(error.__traceback__)
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    finally:
        _flush()
    return 0


def _execute(program: Program) -> None:
    sys.argv = [program.target, *program.arguments]
    if program.mode == "module":
        runpy.run_module(program.target, run_name="__main__", alter_sys=True)
        return
    if program.mode == "command":
        sys.argv[0] = "-c"
        _replace_first_path("")
        exec(compile(program.target, "<string>", "exec"), vars(_main_module()))
        return
    path = Path(program.target)
    if path.is_dir() or path.suffix in (".zip", ".pyz"):
        runpy.run_path(program.target, run_name="__main__")
        return
    _replace_first_path(str(path.resolve().parent))
    main = _main_module()
    main.__file__ = program.target
    # The module stays in place, unlike with runpy: exit handlers and pickles still find it.
    exec(compile(path.read_bytes(), program.target, "exec"), vars(main))


def _replace_first_path(entry: str) -> None:
    """What the interpreter would put first instead of this process's own; nothing under -I or -P."""
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        sys.path[0] = entry


def _main_module() -> types.ModuleType:
    main = types.ModuleType("__main__")
    vars(main)["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = main
    return main


def _own_frames(traceback: types.TracebackType | None) -> types.TracebackType | None:
    """The traceback from the program's first frame on."""
    ours = (__file__, runpy.__file__, "<frozen runpy>")
    while traceback is not None and traceback.tb_frame.f_code.co_filename in ours:
        traceback = traceback.tb_next
    return traceback


def _exit_code(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
