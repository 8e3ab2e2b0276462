"""Which libraries a launch is read back by: none that would have known it is passed over."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from attnprof.dispatch import libraries
from attnprof.dispatch.explanation import GpuFacts, Observed
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.model import KernelLaunch
from tests.conftest import golden_rows

_MOST = 6  # names of a family, the first and the last among them


def _names() -> dict[str, list[str]]:
    """Names by whose kernels they are, as they are told apart."""
    found = defaultdict[tuple[str, str], list[str]](list)
    rows: list[dict[str, Any]] = [
        *(row for row in golden_rows("kernel_census.jsonl.gz") if row["kind"] == "attention"),
        *golden_rows("kernel_names.jsonl"),
        *golden_rows("kernel_names_2026.jsonl"),
    ]
    for name in dict.fromkeys(row["name"] for row in rows):
        signature = parse_kernel_name(name)
        if signature.library:
            found[signature.library, signature.family].append(name)
    picked = defaultdict[str, list[str]](list)
    for (whose, _), names in found.items():
        picked[whose] += [names[at * (len(names) - 1) // _MOST] for at in range(_MOST + 1)]
    return picked


NAMES = _names()


@pytest.mark.parametrize("whose", sorted(NAMES))
def test_a_library_that_knows_a_kernel_says_that_it_launches_such(whose: str) -> None:
    sizes = (((0, 0, 0), (0, 0, 0)), ((4, 8, 2), (128, 1, 1)))  # not read, and some
    for at, name in enumerate(dict.fromkeys(NAMES[whose])):
        for grid, block in sizes if not at else sizes[:1]:
            seen = Observed(KernelLaunch(name, grid, block))
            for vendor in ("nvidia", "amd"):
                gpu = GpuFacts(132, (9, 0), vendor)
                knowing = {
                    other
                    for other, each in libraries.all_libraries().items()
                    if each.explain(seen, gpu) is not None
                }
                said = {other for other, each in libraries.all_libraries().items() if whose in each.kernels}
                assert knowing <= said, name


def test_every_library_but_no_other_is_asked_for_some_kernel() -> None:
    def asked(whose: str) -> set[str]:
        mine = [id(each) for each in libraries.having(whose)]
        return {name for name, each in libraries.all_libraries().items() if id(each) in mine}

    assert asked("") == set(libraries.LIBRARIES)
    assert "torch" in asked("pytorch-bundled-flash")
    assert not {"flash_attn", "flash_attn_3", "flashinfer", "vllm_triton"} & asked("pytorch-bundled-flash")
    assert "vllm_flash_attn" in asked("flash-attn") & asked("flash-attn-3")
