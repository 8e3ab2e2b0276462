"""attnprof diff on runs with generated kernels, and on runs whose dispatch is predicted alone."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from attnprof.dispatch import predict
from attnprof.model import KernelLaunch
from attnprof.runs import run_folders
from attnprof.runs.ingest import finish
from attnprof.runs.run_builder import new_run
from attnprof.trace.open_trace import open_trace
from tests.support.build_trace import TraceBuilder
from tests.support.command import Done, attnprof
from tests.support.generated_run import H100, LAYER_KERNELS, decode_call, generated_run, record_of


def words(done: Done) -> str:
    return " ".join(done.out.split())


def recorded(tmp_path: Path, name: str, steps: range, **values: Any) -> None:
    (tmp_path / name).mkdir()
    generated_run(tmp_path / name, steps, name=name, others=LAYER_KERNELS, **values)


def cpu_run(tmp_path: Path, name: str, tokens: int, *, step_ns: int = 1000) -> None:
    """A run without kernels: ranges and call records alone, 25 tokens of prompt."""
    builder = TraceBuilder()
    builder.domain("attnprof", 1)
    lines = []
    for step in range(tokens):
        call = decode_call(25 + step, 1 if step else 25)
        phase = "decode" if step else "prefill"
        builder.range(phase, step * step_ns, (step + 1) * step_ns, domainId=1, int64Value=step)
        lines.append(json.dumps(record_of(step, step, 0, call, phase) | {"device": "cpu"}))
    path = builder.write(tmp_path / f"{name}.sqlite")
    with new_run(name) as run:
        (run.folder / run_folders.CALLS_JSONL).write_text("\n".join(lines) + "\n")
        workload = {"max_new_tokens": tokens, "batch": 1}
        finish(run, open_trace(path), {"kind": "run", "workload": workload})


def one_split(launches: list[KernelLaunch]) -> list[KernelLaunch]:
    return list(predict(decode_call(64), H100).launches)


def test_a_longer_generation_has_the_same_dispatch_and_goes_on_to_split(tmp_path: Path) -> None:
    cpu_run(tmp_path, "short", 64)
    cpu_run(tmp_path, "long", 512)
    done = attnprof("diff", "short", "long", "--gate-dispatch")
    assert done.code == 0, done.err
    said = words(done)
    assert "EQUAL in all 64 shared steps (64 shared calls), predicted for H100" in said
    assert "only long decode steps 64–511. It switches at step 104 / 129 keys: from 1 split" in said
    assert "max_new_tokens 64 512" in said
    assert "neither run holds GPU kernels" in said
    assert "observed" not in said
    assert "GPU time" not in said


def test_a_changed_split_count_is_named_with_what_it_means_and_fails_the_gate(tmp_path: Path) -> None:
    recorded(tmp_path, "auto", range(120, 150))
    recorded(tmp_path, "forced", range(120, 150), spoil=dict.fromkeys(range(60), one_split))
    assert attnprof("diff", "auto", "forced").code == 0
    done = attnprof("diff", "auto", "forced", "--gate-dispatch")
    assert done.code == 1
    said = words(done)
    assert "DIFFERS in 42 of 60 shared calls (21 of 30 shared steps), observed" in said
    assert (
        "decode step 10, layer 0, 129 keys: auto flash_fwd_splitkv_kernel + combine, 2 splits; forced" in said
    )
    assert "last bits from decode step 10 on: a changed split count" in said
    assert "gate dispatch FAILED: 42 calls differ" in said


def test_the_time_gate_fails_where_b_is_slower_by_more_than_it_allows(tmp_path: Path) -> None:
    recorded(tmp_path, "before", range(100, 120))
    recorded(tmp_path, "after", range(100, 120), attention_ns=lambda _call: 8000)
    slower = attnprof("diff", "before", "after", "--gate", "10")
    assert slower.code == 1
    assert "gate time FAILED: GPU time over 20 shared steps" in words(slower)
    assert attnprof("diff", "after", "before", "--gate", "10").code == 0
    assert attnprof("diff", "before", "after", "--gate", "90").code == 0


def test_without_kernels_the_gate_measures_the_steps_on_the_cpu(tmp_path: Path) -> None:
    cpu_run(tmp_path, "quick", 20)
    cpu_run(tmp_path, "slow", 20, step_ns=1200)
    done = attnprof("diff", "quick", "slow", "--gate", "10")
    assert done.code == 1
    assert "CPU step time over 20 shared steps: 20 µs to 24 µs, +20.0 %" in words(done)
    assert attnprof("diff", "quick", "slow", "--gate", "25").code == 0


def test_json_holds_what_the_table_says(tmp_path: Path) -> None:
    recorded(tmp_path, "a", range(120, 140))
    recorded(tmp_path, "b", range(120, 145), attention_ns=lambda _call: 800)
    done = attnprof("diff", "a", "b", "--format", "json", "--gate", "1000")
    found = json.loads(done.out)
    assert (found["exit_code"], done.code) == (0, 0)
    assert found["dispatch"]["equal"] is True
    assert found["dispatch"]["source"] == {"a": "observed", "b": "observed"}
    assert [step["step"] for step in found["dispatch"]["only_b"]["steps"]] == [21, 22, 23, 24, 25]
    attention = [m for m in found["measures"] if m["section"] == "layer" and m["metric"] == "attention"]
    assert [m["change"] for m in attention] == pytest.approx([1.0, 1.0])
    rows = list(csv.DictReader(io.StringIO(attnprof("diff", "a", "b", "--format", "csv").out)))
    assert len([row for row in rows if row["section"] != "setting"]) == len(found["measures"])
    assert "## Phases, over the 20 shared steps" in attnprof("diff", "a", "b", "--format", "md").out


def test_one_phase_alone_can_be_compared(tmp_path: Path) -> None:
    recorded(tmp_path, "a", range(100, 110), prefill=99)
    recorded(tmp_path, "b", range(100, 110), prefill=99)
    found = json.loads(attnprof("diff", "a", "b", "--phase", "prefill", "--format", "json").out)
    assert found["timed_steps"] == 1
    assert found["dispatch"]["shared_calls"] == 2


def test_runs_with_nothing_in_common_cannot_be_told_apart(tmp_path: Path) -> None:
    cpu_run(tmp_path, "run", 4)
    empty = TraceBuilder()
    empty.range("something", 1, 2)
    path = empty.write(tmp_path / "empty.sqlite")
    done = attnprof("diff", "run", str(path), "--gate", "5", "--gate-dispatch")
    assert done.code == 3
    assert "cannot be compared" in words(done)
    assert words(done).count("CANNOT TELL") == 2


def test_calls_that_one_run_lacks_are_no_difference_of_the_others(tmp_path: Path) -> None:
    recorded(tmp_path, "a", range(120, 122), layers=2)
    recorded(tmp_path, "b", range(120, 122), layers=1)
    said = words(attnprof("diff", "a", "b"))
    assert (
        "DIFFERS: 2 calls of one run are missing in the other in shared steps; in 2 shared calls nothing"
        in said
    )
    assert "DIFFERS in 0" not in said
    recorded(tmp_path, "c", range(120, 121), layers=1)
    assert "EQUAL in the 1 shared step (1 shared call)" in words(attnprof("diff", "c", "c"))


def test_every_line_fits_a_hundred_columns(tmp_path: Path) -> None:
    recorded(tmp_path, "a-run-with-a-rather-long-name", range(120, 160), layers=12)
    recorded(tmp_path, "b", range(120, 140), layers=12, spoil=dict.fromkeys(range(300, 320), one_split))
    done = attnprof("diff", "a-run-with-a-rather-long-name", "b", "--gate", "5")
    assert max(map(len, done.out.splitlines())) <= 100


def test_the_report_answers_why_it_is_not_faster_in_its_first_ten_lines(tmp_path: Path) -> None:
    recorded(tmp_path, "a", range(100, 130), prefill=99)
    first = " ".join(attnprof("report", "a").out.splitlines()[:10])
    assert "per token" in first
    assert "the GPU is idle" in first
    assert "Attention is" in first
    tables = json.loads(attnprof("report", "a", "--format", "json").out)
    assert [row["phase"] for row in tables["phases"]] == ["prefill", "first decode", "steady decode"]
    assert {row["num_splits"] for row in tables["splitting"]} == {1, 2}
