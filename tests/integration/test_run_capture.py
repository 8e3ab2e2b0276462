"""Real workloads under the real recorders, down to the files they leave."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from attnprof.capture.recording import CaptureOptions, CaptureResult, describe_command, plan, record
from attnprof.machine.find_nsys import find_nsys
from attnprof.workloads.spec import GenerateOptions, parse_program

NSYS = pytest.mark.skipif(find_nsys() is None, reason="Nsight Systems is not installed")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TOKENS, LAYERS = 64, 2


def capture(folder: Path, *program: str, recorder: str = "none", **generate) -> CaptureResult:
    folder.mkdir()
    workload, notes = parse_program(list(program)) if program else (GenerateOptions(**generate), ())
    return record(CaptureOptions(workload, recorder=recorder, notes=notes), folder)


def calls(result: CaptureResult, folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]
    assert len(lines) == result.workload["num_calls"]
    return lines


def ranges(trace: Path, domain: str = "attnprof") -> dict[str, list[int | None]]:
    """Payloads of a domain's ranges by message, in order of start, read without attnprof."""
    db = sqlite3.connect(trace)
    domains = db.execute(
        "SELECT domainId, coalesce(text, value) FROM NVTX_EVENTS LEFT JOIN StringIds ON id = textId"
        " WHERE eventType = 75"
    ).fetchall()
    number = next((number for number, name in domains if name == domain), 0)
    rows = db.execute(
        "SELECT coalesce(text, value), int64Value FROM NVTX_EVENTS LEFT JOIN StringIds ON id = textId"
        " WHERE eventType = 59 AND domainId = ? ORDER BY start",
        (number,),
    )
    found: dict[str, list[int | None]] = {}
    for message, payload in rows:
        found.setdefault(message, []).append(payload)
    return found


@pytest.fixture(scope="module")
def generation(tmp_path_factory) -> tuple[CaptureResult, Path]:
    folder = tmp_path_factory.mktemp("nsys") / "run"
    return capture(folder, recorder="nsys", max_new_tokens=TOKENS), folder


@NSYS
@pytest.mark.nsys
class TestGenerateUnderNsys:
    def test_the_trace_holds_one_range_per_prefill_step_layer_and_attention_call(self, generation):
        result, _ = generation
        found = ranges(result.trace)
        assert found["prefill"] == [0]
        assert found["decode"] == list(range(1, TOKENS))
        assert found["layer"] == [layer for _ in range(TOKENS) for layer in range(LAYERS)]
        assert found["attn"] == list(range(TOKENS * LAYERS))
        assert result.notes == tuple(note for note in result.notes if "range" not in note)

    def test_each_call_is_recorded_with_the_lengths_of_its_step(self, generation):
        result, folder = generation
        recorded = calls(result, folder)
        assert [call["seq"] for call in recorded] == list(range(TOKENS * LAYERS))
        for call in recorded:
            step = call["step"]
            assert (call["layer"], call["phase"]) == (call["seq"] % 2, "decode" if step else "prefill")
            assert call["q"] == [1, 28, 1 if step else 25, 128]
            assert call["k"] == call["v"] == [1, 4, 25 + step, 128]

    def test_the_workload_describes_itself(self, generation):
        workload = generation[0].workload
        assert (workload["status"], workload["error"], workload["exit_code"]) == ("complete", None, 0)
        assert (workload["prompt_tokens"], workload["max_new_tokens"], workload["new_tokens"]) == (25, 64, 64)
        assert workload["model"]["name"] == "qwen2.5-7b-attn"
        assert (workload["model"]["num_heads"], workload["model"]["num_heads_k"]) == (28, 4)
        assert (workload["model"]["head_dim"], workload["model"]["weights"]) == (128, "random")
        assert len(workload["steps"]) == TOKENS

    def test_the_tokens_are_those_of_an_uninstrumented_run(self, generation):
        from attnprof.instrument import Recorder
        from attnprof.workloads.generate import prepare

        plain = prepare(GenerateOptions(max_new_tokens=TOKENS, device="cpu"), Recorder())()
        assert generation[0].workload["tokens"] == plain["tokens"]

    def test_no_environment_value_is_left_in_the_export(self, generation):
        export = generation[0].trace.read_bytes()
        assert b"\0PATH=" not in export
        assert b"PYTEST_CURRENT_TEST" not in export

    def test_the_files_are_as_private_as_the_users_umask_makes_them(self, generation):
        folder = generation[1]
        mask = os.umask(0o022)
        os.umask(mask)
        assert not (folder / "calls.jsonl").stat().st_mode & mask
        assert {path.name for path in folder.iterdir()} == {"calls.jsonl", "trace.sqlite", "workload.json"}


@NSYS
@pytest.mark.nsys
def test_the_programs_exit_code_and_output_come_through_nsys(tmp_path, capfd):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "print('out', __name__, sys.argv[1:], sys.path[0])\n"
        "print('err', file=sys.stderr)\n"
        "raise SystemExit(3)\n"
    )
    result = capture(tmp_path / "run", sys.executable, str(script), "--x", "1", recorder="nsys")
    assert result.exit_code == 3
    assert result.workload["status"] == "failed"
    out, err = capfd.readouterr()
    assert out == f"out __main__ ['--x', '1'] {tmp_path}\n"
    assert err == "err\n"


@NSYS
@pytest.mark.nsys
def test_a_program_that_ends_at_once_does_not_hang_nsys(tmp_path):
    result = capture(tmp_path / "run", "true", recorder="nsys")
    assert result.exit_code == 0
    assert result.trace.exists()


@NSYS
@pytest.mark.nsys
def test_a_program_that_dies_of_a_signal_leaves_a_trace_and_says_so(tmp_path):
    result = capture(tmp_path / "run", "python", "-c", "import os; os.kill(os.getpid(), 11)", recorder="nsys")
    assert result.exit_code == 139
    assert result.workload["error"] == "the program was ended by SIGSEGV before its first attention call"
    assert result.trace.exists()
    assert (tmp_path / "run" / "calls.jsonl").read_text() == ""


@NSYS
@pytest.mark.nsys
def test_the_generate_example_keeps_its_own_ranges_beside_ours(tmp_path):
    result = capture(
        tmp_path / "run",
        *("python", str(EXAMPLES / "qwen_generate.py"), "--max-new-tokens", "8"),
        recorder="nsys",
    )
    assert result.exit_code == 0
    assert len(ranges(result.trace)["attn"]) == 8 * LAYERS == len(calls(result, tmp_path / "run"))
    own = [message for message in ranges(result.trace, "default") if message.startswith("step=")]
    assert own == [f"step={step}" for step in range(8)]
    assert result.workload["model"]["num_heads"] == 28


def test_the_varlen_example_agrees_with_the_naive_one_and_its_calls_are_recorded(tmp_path, capfd):
    result = capture(tmp_path / "run", "python", str(EXAMPLES / "varlen_vs_naive.py"))
    assert result.exit_code == 0
    assert "within 0.01" in capfd.readouterr().out
    assert calls(result, tmp_path / "run")


def test_a_programs_exception_is_shown_from_its_own_first_frame(tmp_path, capfd):
    script = tmp_path / "script.py"
    script.write_text("def f():\n    return 1 / 0\n\nf()\n")
    result = capture(tmp_path / "run", str(script))
    assert result.exit_code == 1
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == f'  File "{script}", line 4, in <module>'
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_a_module_runs_like_python_m(tmp_path, capfd, monkeypatch):
    (tmp_path / "tool.py").write_text("import sys; print(__name__, __spec__.name, sys.argv[1:])")
    monkeypatch.chdir(tmp_path)
    assert capture(tmp_path / "run", "-m", "tool", "a").exit_code == 0
    assert capfd.readouterr().out == "__main__ tool ['a']\n"


def test_calls_of_a_programs_threads_are_waited_for(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import threading, time, torch\n"
        "def work():\n"
        "    time.sleep(0.3)\n"
        "    q = torch.zeros(1, 2, 4, 8)\n"
        "    torch.nn.functional.scaled_dot_product_attention(q, q, q)\n"
        "threading.Thread(target=work).start()\n"
    )
    assert len(calls(capture(tmp_path / "run", str(script)), tmp_path / "run")) == 1


def test_the_profiler_of_torch_leaves_a_trace_with_our_ranges(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\n"
        "q = torch.zeros(1, 2, 4, 8)\n"
        "for _ in range(3):\n"
        "    torch.nn.functional.scaled_dot_product_attention(q, q, q)\n"
    )
    result = capture(tmp_path / "run", str(script), recorder="torch")
    events = json.loads(gzip.open(result.trace).read())["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert sorted(name for name in names if name.startswith("attnprof:")) == [
        f"attnprof:attn:{seq}" for seq in range(3)
    ]


def test_the_printed_command_does_what_the_run_does(tmp_path):
    program, _ = parse_program([sys.executable, "-c", "print('it is')"])
    options = CaptureOptions(program, recorder="none")
    commands = describe_command(plan(options), options, tmp_path / "it's here")
    done = subprocess.run(["bash", "-c", commands], check=True, capture_output=True)
    assert done.stdout == b"it is\n"
    assert json.loads((tmp_path / "it's here" / "workload.json").read_text())["status"] == "complete"
    assert shlex.split(commands)[0] == "mkdir"


@NSYS
@pytest.mark.nsys
def test_no_package_nvtx_is_needed_and_one_that_this_nsys_does_not_hear_is_said(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, types, torch\n"
        "class DummyDomain: pass\n"
        "sys.modules['nvtx'] = types.SimpleNamespace(get_domain=lambda name: DummyDomain())\n"
        "query = torch.zeros(1, 2, 4, 8)\n"
        "for _ in range(3):\n"
        "    torch.nn.functional.scaled_dot_product_attention(query, query, query)\n"
    )
    result = capture(tmp_path / "run", sys.executable, str(script), recorder="nsys")
    assert ranges(result.trace)["attn"] == [0, 1, 2]
    assert any("the program's own ranges are lost: nvtx" in note for note in result.notes)
