"""A recorded process that is interrupted before anything of the program's ran."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from attnprof.workloads.spec import ChildSpec, Program

_INTERRUPTED = """
import builtins, sys
from attnprof.workloads import child

imported = builtins.__import__
def interrupted(name, *rest):
    if name == "attnprof.instrument":
        raise KeyboardInterrupt
    return imported(name, *rest)
builtins.__import__ = interrupted
sys.exit(child.start([sys.argv[1]]))
"""


def test_an_interrupt_while_its_recorder_is_imported_is_no_traceback(tmp_path: Path) -> None:

    script = tmp_path / "program.py"
    script.write_text("print('ran')\n")
    spec = ChildSpec(str(tmp_path), "none", program=Program("script", str(script)))
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, spec.to_json()], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
