"""Launches observed on real GPUs by benchmarks.gpu_evidence, replayed without one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from attnprof.calls import parse_call
from attnprof.check import Verdict
from attnprof.dispatch.names import parse_kernel_name
from attnprof.model import KernelLaunch
from attnprof.observe import ObservedShape
from benchmarks.gpu_evidence.evidence import judge_call
from tests.conftest import TESTS

RECORDED = sorted((TESTS / "data" / "gpu").glob("*/observed_*.jsonl.gz"))


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
