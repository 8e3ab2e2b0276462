"""Traces are read, calls predicted and runs compared where neither torch nor transformers can be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attnprof.machine.extras import install_line

ROOT = Path(__file__).resolve().parents[2]
TRACES = ROOT / "tests" / "data" / "traces"
TORCH_TRACE = TRACES / "torch_h100_qwen1.5-0.5b_pytorch_flash.json.gz"
NSYS_TRACE = TRACES / "nsys2026.1_rtx3080_tiny_nonvtx.sqlite.gz"
# In any environment: what is absent from the smallest one cannot be imported.
_WITHOUT = """
import sys
for absent in ("torch", "transformers", "tokenizers", "nvtx"):
    sys.modules[absent] = None
"""
_COMMAND = _WITHOUT + "from attnprof.cli import main\nmain()"
COMMANDS = (
    "run",
    "import",
    "report",
    "check",
    "predict",
    "explain",
    "sweep",
    "diff",
    "export",
    "doctor",
    "gpus",
    "names",
    "runs",
)


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def python(program: str, *arguments: object, runs: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "100"} | ({"ATTNPROF_RUNS": str(runs)} if runs else {})
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment,
    )


def said(*arguments: object, runs: Path | None = None, code: int = 0) -> str:
    """What a command prints; it must end with ``code`` and warn of nothing."""
    done = python(_COMMAND, *arguments, runs=runs)
    assert done.returncode == code, done.stdout + done.stderr
    if not code:
        assert "Warning" not in done.stderr
    return done.stdout if not code else done.stdout + done.stderr


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_whole_and_has_no_control_sequence(command: str) -> None:
    shown = said(*command.split(), "--help")
    assert "Usage: " in shown
    assert "--help" in shown
    assert "\\u" not in shown
    assert all(character.isprintable() or character == "\n" for character in shown)
    if command not in ("", "gpus", "runs"):
        assert f"\n    attnprof {command} " in shown  # an example, on a line of its own


def test_a_trace_is_checked_and_reported(runs_folder: Path) -> None:
    checked = said("check", TORCH_TRACE, runs=runs_folder)
    assert "24 of 34 attention calls compared, none contradicts the dispatch rules" in " ".join(
        checked.split()
    )
    assert "flash_fwd_kernel" in said("report", TORCH_TRACE, runs=runs_folder)
    assert "verdict" in said("doctor", TORCH_TRACE, runs=runs_folder)


def test_a_trace_of_nsys_is_imported_exported_and_compared(runs_folder: Path, tmp_path: Path) -> None:
    said("import", NSYS_TRACE, "-o", "mine", runs=runs_folder)
    assert "mine" in said("runs", runs=runs_folder)
    for form in ("csv", "sqlite", "perfetto"):
        said("export", "mine", "--to", form, "-o", tmp_path / form, runs=runs_folder)
        assert (tmp_path / form).exists()
    said("report", "mine", "--html", tmp_path / "page.html", runs=runs_folder)
    assert "</html>" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "kernel" in said("diff", "mine", "mine", runs=runs_folder)


def test_tables_are_exported_as_parquet(runs_folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    said("export", NSYS_TRACE, "--to", "parquet", "-o", tmp_path / "tables", runs=runs_folder)
    kernels = parquet.read_table(tmp_path / "tables" / "kernels.parquet")
    assert kernels.num_rows > 0


def test_calls_are_predicted_explained_and_swept() -> None:
    assert "flash_fwd_splitkv_kernel" in said("predict", "--seqlen-k", "4096", "--gpu", "a100")
    explained = said("explain", "--seqlen-k", "4096", "--batch", "8", "--gpu", "a100")
    assert "this call is split 6 ways along its keys" in " ".join(explained.split())
    assert "129–8192" in said("sweep", "--seqlen-k", "1:8192", "--gpu", "h200")
    assert "H100" in said("gpus")


def test_a_run_is_opened_in_python(runs_folder: Path) -> None:
    program = f"{_WITHOUT}\nimport attnprof\nrun = attnprof.load({str(TORCH_TRACE)!r})\n" + (
        "print(len(run.calls), len(run.kernels), dict(run.check().counts))"
    )
    done = python(program, runs=runs_folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("34 1465 ")


def test_what_needs_a_library_says_the_line_to_type(runs_folder: Path) -> None:
    refused = said("run", "--capture", "none", runs=runs_folder, code=2)
    assert "error: generate() needs torch and transformers, which are not installed" in refused
    assert f"try: {install_line()}\n" in refused
    varlen = said("run", "--capture", "none", "--workload", "varlen", runs=runs_folder, code=2)
    assert "error: --workload varlen needs torch, which is not installed" in varlen
    assert not list(runs_folder.glob("qwen*"))


def test_a_program_without_torch_is_recorded_all_the_same(runs_folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("print('hello from it')\nraise SystemExit(3)\n")
    done = python(
        _COMMAND, "run", "--capture", "none", "-o", "program", "--", sys.executable, script, runs=runs_folder
    )
    assert done.returncode == 3, done.stderr
    assert "hello from it" in done.stdout
    assert (runs_folder / "program" / "run.json").exists()
