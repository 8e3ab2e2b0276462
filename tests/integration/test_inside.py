"""``attnprof.record`` and the notebook's magic: the same run, made from inside the program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

import attnprof
from attnprof.errors import RunError, UsageError
from attnprof.runs.unfinished_runs import resume


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ATTNPROF_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def attend(length: int = 4) -> None:
    q = torch.zeros(1, 2, length, 8)
    F.scaled_dot_product_attention(q, q, q)


def lengths(run: attnprof.Run) -> list[int]:
    return [record.fields["q"][2] for record in run.records]


def unfinished(runs: Path) -> list[str]:
    return [path.name for path in runs.glob(".*.partial*")]


def test_a_block_is_a_run_like_any_other(runs):
    original, before = F.scaled_dot_product_attention, dict(os.environ)
    with attnprof.record("mine", gpu="a100") as run:
        attend(5)
        assert repr(run) == "<attnprof run mine: being recorded>"
        with pytest.raises(RunError, match="mine is still being recorded"):
            run.calls  # noqa: B018
    attend(9)
    assert F.scaled_dot_product_attention is original
    assert dict(os.environ) == before
    assert isinstance(run, attnprof.Run)
    assert (run.status, lengths(run)) == ("complete", [5])
    loaded = attnprof.load("mine")
    assert loaded.config == run.config
    assert loaded.calls.equals(run.calls)
    assert run.calls.predicted_kernel.tolist() == ["flash_fwd_kernel"]
    assert run.config["predict"]["gpu"]["name"].startswith("A100")
    assert run.folder == runs / "mine"
    assert run.database.exists()
    assert unfinished(runs) == []


@pytest.fixture(scope="module")
def generate():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 64}
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()
    return lambda: model.generate(torch.ones(1, 5, dtype=torch.long), max_new_tokens=4, do_sample=False)


def test_generation_in_a_block_has_its_steps_and_layers(generate):
    with attnprof.record("generated") as run:
        generate()
    calls = run.calls
    assert calls.phase.tolist() == ["prefill"] * 2 + ["decode"] * 6
    assert calls.layer.tolist() == [0, 1] * 4
    assert calls.seqlen_k.tolist() == [5, 5, 6, 6, 7, 7, 8, 8]
    assert run.config["workload"]["model"]["num_heads_k"] == 2
    assert run.plot_splits().axes


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("wrong"), "failed", "ValueError: wrong"),
        (OSError(28, "No space left on device"), "failed", "OSError: [Errno 28] No space left on device"),
        (SystemExit(3), "failed", "SystemExit: 3"),
        (KeyboardInterrupt(), "interrupted", "interrupted"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_block_raises_is_raised_on_and_leaves_a_marked_run(error, status, said, runs):
    with pytest.raises(type(error)) as caught, attnprof.record("ended") as run:  # noqa: PT012
        attend(6)
        raise error
    assert caught.value is error
    assert (run.status, lengths(run)) == (status, [6])
    assert run.config["workload"]["error"] == said
    assert unfinished(runs) == []
    attend(7)
    assert lengths(attnprof.load("ended")) == [6]


def test_a_ctrl_c_that_comes_while_the_run_is_made_waits_for_it(monkeypatch):
    from attnprof.inside import recording

    finish = recording.finish_recorded

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        return finish(*arguments)

    monkeypatch.setattr(recording, "finish_recorded", interrupted)
    with pytest.raises(KeyboardInterrupt), attnprof.record("whole"):
        attend(6)
    assert lengths(attnprof.load("whole")) == [6]


def test_repeated_blocks_are_numbered_named_ones_are_refused_and_forced():
    for number in (3, 4):
        with attnprof.record() as run:
            attend(number)
    assert (run.name, lengths(run)) == ("recorded-2", [4])
    assert lengths(attnprof.load("recorded")) == [3]
    with pytest.raises(RunError, match="exists already"), attnprof.record("recorded"):
        attend()
    with attnprof.record("recorded", force=True) as run:
        attend(8)
    assert lengths(attnprof.load("recorded")) == [8] == lengths(run)


def test_nested_blocks_record_each_what_is_in_it():
    with attnprof.record("outer") as outer:
        attend(1)
        with attnprof.record("inner") as inner:
            attend(2)
        attend(3)
        with pytest.raises(RunError, match="is being made"), attnprof.record("outer"):
            attend(4)
    assert (lengths(inner), lengths(outer)) == ([2], [1, 2, 3])


def test_blocks_that_end_in_the_order_they_began_leave_nothing_behind():
    original, environment = F.scaled_dot_product_attention, dict(os.environ)
    first, second = attnprof.record("first"), attnprof.record("second")
    one, other = first.__enter__(), second.__enter__()
    attend(1)
    first.__exit__(None, None, None)
    attend(2)
    second.__exit__(None, None, None)
    attend(3)
    assert (lengths(one), lengths(other)) == ([1], [1, 2])
    assert dict(os.environ) == environment
    F.scaled_dot_product_attention = original


def test_a_thread_may_record_and_calls_of_other_threads_are_kept():
    kept: list[attnprof.Run] = []

    def work() -> None:
        with attnprof.record("thread") as run:
            inner = threading.Thread(target=attend, args=(5,))
            inner.start()
            inner.join()
        kept.append(run)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert lengths(kept[0]) == [5]


def test_processes_of_a_block_are_recorded_and_a_fork_that_leaves_it_ends_apart(tmp_path):
    text = """
        import os, subprocess, sys, torch, attnprof
        torch.set_num_threads(1)
        def attend(length):
            q = torch.zeros(1, 2, length, 8)
            torch.nn.functional.scaled_dot_product_attention(q, q, q)
        if sys.argv[1:]:
            attend(7)
            sys.exit()
        with attnprof.record("children") as run:
            attend(5)
            if child := os.fork() == 0:
                attend(6)
            else:
                os.wait()
                subprocess.run([sys.executable, __file__, "child"], check=True)
        if not child:
            print(run.calls.process.tolist(), run.processes.calls.tolist())
    """
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(text))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[0, 1, 2] [1, 1, 1]\n"
    assert lengths(attnprof.load("children")) == [5, 6, 7]


def test_a_block_whose_process_is_killed_can_be_resumed(tmp_path):
    text = """
        import os, signal, torch, attnprof
        with attnprof.record("killed"):
            q = torch.zeros(1, 2, 5, 8)
            torch.nn.functional.scaled_dot_product_attention(q, q, q)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(text)], check=False)
    assert done.returncode == -signal.SIGKILL
    ((folder, status),) = resume("killed")
    assert (folder.name, status) == ("killed", "interrupted")
    assert lengths(attnprof.load("killed")) == [5]


def test_torch_profiler_is_used_where_asked_and_left_to_who_has_it():
    with attnprof.record("profiled", capture="torch") as run:
        attend(5)
    assert run.ranges.name.tolist() == ["attn"]
    assert run.ranges.call.tolist() == [0]
    with torch.profiler.profile(), attnprof.record("theirs", capture="torch") as run:
        attend(5)
    assert lengths(run) == [5]
    assert "torch.profiler is in use already" in run.config["capture"]["notes"][0]


@pytest.mark.parametrize("wrong", [{"capture": "nsys"}, {"capture": "x"}, {"gpu": "no such GPU"}])
def test_a_wrong_option_is_refused_before_anything_is_recorded(wrong, runs):
    with pytest.raises(UsageError), attnprof.record("wrong", **wrong):
        pytest.fail("it began")
    assert not runs.exists()


def test_importing_attnprof_imports_nothing_for_it():
    done = subprocess.run(
        [sys.executable, "-c", "import attnprof, sys; print('torch' in sys.modules, 'json' in sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["False", "False"]


# In a notebook

CELL = "attend(3)\nattend(4)\n"


@pytest.fixture
def shell():
    interactive = pytest.importorskip("IPython.core.interactiveshell")
    made = interactive.InteractiveShell()
    made.user_ns["attend"] = attend
    assert made.run_line_magic("load_ext", "attnprof") is None
    return made


def test_the_magic_records_a_cell_and_shows_its_split_figure(shell, generate, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    shell.user_ns["generate"] = generate
    done = shell.run_cell("%%attnprof cell-run --gpu h100\ngenerate()\nmade = 1\n")
    assert done.success
    assert shell.user_ns["made"] == 1
    run = shell.user_ns["_"]
    assert len(run.records) == 8
    assert attnprof.load("cell-run").calls.equals(run.calls)
    assert [type(one).__name__ for one in shown] == ["Figure"]
    assert "8 attention calls, complete" in capsys.readouterr().out


def test_a_cell_without_decode_steps_has_a_run_and_no_figure(shell, capsys):
    shell.run_cell(f"%%attnprof\n{CELL}")
    assert lengths(shell.user_ns["_"]) == [3, 4]
    assert "note: there is nothing to plot" in capsys.readouterr().out


def test_a_cell_that_fails_is_shown_by_the_shell_and_its_run_is_marked(shell, capsys):
    shell.run_cell("%%attnprof failing\nattend(3)\n1 / 0\n")
    assert "ZeroDivisionError" in capsys.readouterr().out
    run = attnprof.load("failing")
    assert (run.status, lengths(run)) == ("failed", [3])
    assert shell.run_cell("attend(3)").success


def test_a_wrong_line_is_one_sentence(shell, capsys):
    shell.run_cell(f"%%attnprof one two\n{CELL}")
    shell.run_cell(f"%%attnprof --gpu nothing\n{CELL}")
    shown = capsys.readouterr().out
    assert shown.count("error: ") == 2
    assert "Traceback" not in shown
