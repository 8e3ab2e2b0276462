"""Every recorded launch of every recorded version is predicted exactly."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from attnprof.calls.call_files import parse_call
from attnprof.dispatch import predict
from attnprof.dispatch.flash_attn2 import versions as flash_attn2
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.dispatch.versions import parse_version
from tests.conftest import GOLDEN, golden_rows

KINDS = ("launches", "edges")
FILES = sorted(path.name for kind in KINDS for path in GOLDEN.glob(f"*_{kind}_*.jsonl.gz"))


def version_of(name: str) -> str:
    """The version a golden file was recorded from."""
    return name.removesuffix(".jsonl.gz").rpartition("_")[2]


def predicted(row: dict[str, Any]) -> dict[str, Any]:
    """The prediction for a row in the shape of its "expect"."""
    prediction = predict(*parse_call(row))
    return {
        "error": prediction.error,
        "num_splits": prediction.num_splits,
        "launches": [
            {
                "kernel": launch.kernel,
                "grid": list(launch.grid),
                "block": list(launch.block),
                "dynamic_smem": launch.dynamic_smem,
            }
            for launch in prediction.launches
        ],
    }


def test_the_recorded_versions_are_here() -> None:
    recorded = {version_of(name) for name in FILES if name.startswith("fa2_launches")}
    assert recorded >= {
        "2.2.4",
        "2.3.6",
        "2.5.6",
        "2.5.9.post1",
        "2.6.3",
        "2.7.4.post1",
        "2.8.3",
        "2.8.3.post1",
    }
    assert sum(len(golden_rows(name)) for name in FILES) > 38_000


# Read off the sources of the tags; the next recorded version shows the change.
RELEASE_BY_READING = {
    "2.3.0", "2.3.1", "2.3.5", "2.4.0", "2.4.1", "2.4.3", "2.5.0", "2.5.7",
    "2.6.0", "2.6.2", "2.7.4", "2.8.0",
}  # fmt: skip
NOT_RELEASED = {"2.8.4"}  # main's name for itself, read at 0251105a


def test_every_other_change_is_recorded_in_its_own_release() -> None:
    recorded = {version_of(name) for name in FILES if name.startswith("fa2")}
    changes = {version for version, _ in flash_attn2._CHANGES}
    assert changes - recorded - NOT_RELEASED == RELEASE_BY_READING
    newest = max(parse_version(version) for version in recorded)
    assert all(parse_version(change) <= newest for change in changes - NOT_RELEASED)


@pytest.mark.parametrize("name", FILES)
def test_predicts_the_launches_upstream_makes(name: str) -> None:
    wrong = [
        (row["call"], row["expect"], got)
        for row in golden_rows(name)
        if (got := predicted(row)) != row["expect"]
    ]
    assert not wrong, f"{len(wrong)} rows differ, the first: {wrong[0]}"


@pytest.mark.parametrize("name", FILES)
def test_reads_back_every_recorded_kernel_name(name: str) -> None:
    for row in golden_rows(name):
        for launch in row["expect"]["launches"]:
            signature = parse_kernel_name(launch["kernel"])
            assert signature.modelled
            assert signature.dtype == row["call"]["dtype"]
            assert signature.flags is not None
            assert signature.warps is not None
            assert signature.warps * 32 == launch["block"][0]
            if signature.family == "fwd_splitkv":
                split = signature.flag("Split")
                assert split == (row["expect"]["num_splits"] > 1)


def nsys_spelling(kernel: str) -> str:
    """The name as nsys prints it."""
    kernel = re.sub(r"(?<=[<, ])(\d+)(?=[,>])", r"(int)\1", kernel)
    return kernel.replace("false", "(bool)0").replace("true", "(bool)1").replace("> >", ">>")


@pytest.mark.parametrize(
    "spell", [nsys_spelling, lambda k: k.replace("false", "0").replace("true", "1").replace("cutlass::", "")]
)
def test_every_spelling_reads_the_same(spell: Callable[[str], str]) -> None:
    for row in golden_rows("fa2_launches_2.8.3.jsonl.gz"):
        for launch in row["expect"]["launches"]:
            assert parse_kernel_name(spell(launch["kernel"])) == parse_kernel_name(launch["kernel"])
