"""Names made to keep a rule busy for ever: every rule that reads a name has answered before it is noticed."""

from __future__ import annotations

import subprocess
import sys

import pytest

ALL_RULES = """
import sys
from attnprof.analysis.kernel_groups import kernel_group
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.safety.redact import redact, redact_command
from attnprof.trace.torch_rows import Rows

text = sys.stdin.read()
parse_kernel_name(text), kernel_group(text), redact(text), redact_command([text])
for category in ("cpu_op", "user_annotation", "kernel"):
    Rows().add({"ph": "X", "cat": category, "name": text, "ts": 1})
print("answered")
"""
PIECES = ("x", "w_", "_ZN7ck_tileFmhaFwd", "ck_tile_FmhaPrefill", "aten::flash", "token=a", "a:b@c://")


@pytest.mark.parametrize("piece", PIECES)
def test_no_name_takes_a_rule_much_longer_than_its_length_asks(piece: str) -> None:
    name = piece * (40_000 // len(piece))
    done = subprocess.run(
        [sys.executable, "-c", ALL_RULES],
        input=name,
        timeout=120,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "answered\n", done.stderr
