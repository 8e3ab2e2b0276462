"""Launches observed on real GPUs by benchmarks.gpu_evidence, replayed without one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from attnprof.calls.call_files import parse_call
from attnprof.calls.records import read_records
from attnprof.check.check_run import Verdict
from attnprof.check.observed_shape import ObservedShape
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.model import Gpu, KernelLaunch
from attnprof.trace.open_trace import open_trace
from benchmarks.gpu_evidence.evidence import judge_call
from benchmarks.gpu_evidence.story import replay
from tests.conftest import TESTS

RECORDED = sorted((TESTS / "data" / "gpu").glob("*/observed_*.jsonl.gz"))
STORIES = sorted((TESTS / "data" / "gpu").glob("*/story_*_calls.jsonl.gz"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_predicts_what_was_observed(path: Path) -> None:
    with gzip.open(path, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    assert rows
    wrong = []
    for row in rows:
        launches = tuple(
            KernelLaunch(launch["kernel"], tuple(launch["grid"]), tuple(launch["block"]))
            for launch in row["expect"]["launches"]
        )
        seen = (
            ObservedShape(launches, tuple(parse_kernel_name(one.kernel) for one in launches))
            if launches
            else None
        )
        call, gpu, version = parse_call(row)
        judged = judge_call(call, gpu, version or "", seen, row["expect"]["error"])
        if judged.verdict is not Verdict.MATCH:
            wrong.append((row, judged.detail))
    assert not wrong, f"{len(wrong)} of {len(rows)} differ, the first: {wrong[0]}"


@pytest.mark.parametrize("path", STORIES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_attention_call_of_a_generation_ran_as_predicted(path: Path) -> None:
    known = json.loads((path.parent / "evidence.json").read_text())["environment"]
    records = read_records(path)
    trace = path.with_name(path.name.replace("_calls.jsonl.gz", ".json.gz"))
    ranged = len(open_trace(trace).ranges) > 0
    _, checked = replay(trace, records, Gpu(**known["gpu"]), known["torch"], ranged=ranged)
    assert len(checked) == len(records) > 0
    assert [(call.seq, call.detail) for call in checked if call.verdict is not Verdict.MATCH] == []
