"""Attention against what such a card was seen to reach. The evidence here is made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attnprof.commands.measured_evidence import read_peaks
from attnprof.errors import CannotTellError
from tests.conftest import TESTS
from tests.support.command import attnprof

TRACE = TESTS / "data" / "traces" / "torch_h100_qwen1.5-0.5b_pytorch_flash.json.gz"
H100 = {"name": "NVIDIA H100 80GB HBM3", "sm_major": 9, "sm_minor": 0, "num_sms": 132}
PEAKS = {"copy_bytes_per_s": 2.5e12, "matmul_flops_per_s": {"bf16": 6.0e14, "fp16": 6.4e14}}


def made_up(folder: Path, peaks: dict[str, Any] = PEAKS, gpu: dict[str, Any] = H100, **more: Any) -> Path:
    """A results folder whose every figure was invented for this test."""
    evidence = {"date": "2000-01-01", "environment": {"gpu": gpu}, "steps": {"peaks": peaks}, **more}
    (folder / "evidence.json").write_text(json.dumps(evidence))
    return folder


def facts(folder: Path) -> dict[str, str]:
    done = attnprof("report", str(TRACE), "--measured", str(folder), "--format", "json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return {**found["facts"], "rate": found["roofline"][0]["tflop_s"]}


def test_computing_is_told_against_what_a_matrix_product_reached(tmp_path: Path) -> None:
    found = facts(made_up(tmp_path))
    share = round(float(found["rate"]) / 600 * 100, 1)
    assert found["measured"] == (
        f"Attention in 1 split computes at {share} % of what a bf16 matrix product reached on H100 SXM5 80GB "
        "(600 TFLOP/s, 2000-01-01)."
    )


def test_another_type_another_card_and_a_slice_of_this_one_are_not_compared(tmp_path: Path) -> None:
    other_type = made_up(tmp_path, {"matmul_flops_per_s": {"fp16": 6.4e14}})
    assert facts(other_type)["measured"].startswith("No call that was recorded and observed")
    for gpu, named in ((H100 | {"name": "NVIDIA H200"}, "H200"), (H100 | {"num_sms": 16}, "16 SMs")):
        measured = facts(made_up(tmp_path, gpu=gpu))["measured"]
        assert named in measured
        assert measured.endswith("they are not compared.")


def test_without_evidence_nothing_is_said_of_it() -> None:
    done = attnprof("report", str(TRACE), "--format", "json")
    assert "measured" not in json.loads(done.out)["facts"]


def test_a_rehearsal_and_a_file_without_peaks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotTellError, match="of a rehearsal"):
        read_peaks(made_up(tmp_path, rehearsal="yes"))
    with pytest.raises(CannotTellError, match="what which GPU reached"):
        read_peaks(made_up(tmp_path, {}))
