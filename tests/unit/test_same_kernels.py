"""What ran beside attention tells which calls are missing, doubled, or launched by another backend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from attnprof.model import AttentionCall, KernelLaunch
from tests.spoil.scenes import Launches, Scene, launches_of
from tests.spoil.traces import run_of
from tests.unit.test_inconsistent import (
    H100,
    HOPPER,
    LAYERS,
    STEPS,
    UNIFORM,
    cell,
    findings,
    only,
    plain,
    replayed,
    scene,
    with_cells,
    without,
)

BESIDE = "beside the same other kernels"
MATH = tuple(
    KernelLaunch(name, (8, 1, 1), (128, 1, 1))
    for name in (
        "ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_tn",
        "void (anonymous namespace)::softmax_warp_forward<float, float, float, 8, false, false>(float*)",
        "ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_nn",
    )
)
TOP_K = KernelLaunch(
    "void at::native::sbtopk::gatherTopK<float, unsigned int, 2>(float*)", (1, 1, 1), (64, 1, 1)
)


# as many calls


@pytest.mark.parametrize("layer", [1, LAYERS - 1])
def test_the_last_step_misses_no_call_where_all_its_other_kernels_ran(layer: int, tmp_path: Path) -> None:
    cut = [(STEPS - 1, one) for one in range(layer, LAYERS)]
    (one,) = findings(with_cells(UNIFORM, dict.fromkeys(cut, ())), tmp_path / "a")
    assert f"step {STEPS - 1} ran {layer} attention call" in one[2]
    assert BESIDE in one[2]
    assert findings(without(UNIFORM, cut), tmp_path / "b") == []  # the trace ends there


def test_the_first_call_may_have_been_made_before_the_recording(tmp_path: Path) -> None:
    assert findings(with_cells(UNIFORM, {(0, 0): ()}), tmp_path / "a") == []
    assert findings(with_cells(UNIFORM, {(0, 1): ()}), tmp_path / "b") != []


def test_a_prompt_with_a_call_more_than_each_replay_is_found(tmp_path: Path) -> None:
    found = findings(replayed(at_0_2=cell(UNIFORM, 0, 2) * 2), tmp_path)
    assert [BESIDE in one[2] and "ran 5 attention calls" in one[2] for one in found] == [True]


def test_steps_in_which_each_layer_makes_two_calls_are_left_alone(tmp_path: Path) -> None:
    """As a mixed batch: a call for the prompts, one for the rest."""
    mixed = {(3, layer): cell(UNIFORM, 3, layer) * 2 for layer in range(LAYERS)}
    assert not any(BESIDE in one[2] for one in findings(with_cells(UNIFORM, mixed), tmp_path))


# the same launches


def test_one_call_of_one_replay_that_launches_something_else_is_found(tmp_path: Path) -> None:
    other = launches_of(replace(replayed().calls[-1].call, seqlen_k=4096), H100, "2.8.3")
    assert other != cell(replayed(), 3, 1)
    alike = scene(lambda step, layer: replayed().calls[-1].call if step else plain(0), layers=2)
    bare = replace(alike, marks="none", graphs="nodes")
    assert findings(bare, tmp_path / "a") == []
    (one,) = findings(with_cells(bare, {(3, 1): other}), tmp_path / "b")
    assert f"as call 2: {BESIDE}, 6 others ran" in one[2]


def test_a_graph_captured_anew_launches_what_it_likes(tmp_path: Path) -> None:
    other = launches_of(replace(replayed().calls[-1].call, seqlen_k=4096), H100, "2.8.3")
    anew = {(step, layer): other for step in range(4, STEPS) for layer in range(LAYERS)}
    assert findings(replace(with_cells(replayed(), anew), marks="none"), tmp_path) == []


# torch's math backend


def _with(launches: Launches, layer: int, steps: range = range(STEPS)) -> Scene:
    return with_cells(UNIFORM, {(step, layer): launches for step in steps})


def test_a_layer_of_the_math_backend_beside_others_is_found(tmp_path: Path) -> None:
    found = findings(_with(MATH, 2), tmp_path)
    assert len(found) == STEPS
    assert "layer 2 of step 0 ran a softmax between two matrix products" in found[0][2]
    assert "3 other layers ran flash_fwd" in found[0][2]


def test_a_routers_softmax_and_layers_of_two_backends_in_turn_are_left_alone(tmp_path: Path) -> None:
    router = (MATH[0], MATH[1], TOP_K)
    assert findings(_with(router, 2), tmp_path / "a") == []  # a layer without attention, with experts
    turns = with_cells(UNIFORM, {(step, layer): MATH for step in range(STEPS) for layer in (1, 3)})
    assert findings(turns, tmp_path / "b") == []
    assert findings(_with((*MATH, *cell(UNIFORM, 3, 2)), 2, range(3, 4)), tmp_path / "c") == []


# the edges of a trace


def test_a_last_call_without_its_combine_kernel_is_found_where_kernels_ran_after_it(tmp_path: Path) -> None:
    last = cell(UNIFORM, STEPS - 1, LAYERS - 1)
    assert len(last) == 2
    bare = replace(UNIFORM, marks="none")
    spoilt = with_cells(bare, {(STEPS - 1, LAYERS - 1): last[:1]})
    failures = run_of(spoilt, tmp_path).check().failures
    assert [one.verdict.value for one in failures] == ["unexplained"]
    assert "ran without its combine kernel" in failures[0].detail


# plans of packed batches


def test_a_plan_without_its_main_kernel_and_a_main_kernel_without_its_plan_are_found(tmp_path: Path) -> None:
    call = replace(
        HOPPER.calls[-1].call, entry="fwd_kvcache", cache_seqlens=True, seqlen_k=8192, num_heads_k=4
    )
    planned = scene(lambda step, layer: call if step else HOPPER.calls[0].call, version="3.0.0", layers=2)
    plan, main, *rest = cell(planned, 3, 1)
    assert "prepare" in plan.kernel
    assert findings(planned, tmp_path / "a") == []
    only(
        findings(with_cells(planned, {(3, 1): (main, *rest)}), tmp_path / "b"),
        3,
        1,
        "the two launch the same",
    )
    only(findings(with_cells(planned, {(3, 1): (plan,)}), tmp_path / "c"), 3, 1, "the two launch the same")
    once = {(step, 1): (main, *rest) for step in range(1, STEPS)}  # planned by the first layer
    assert findings(with_cells(planned, once), tmp_path / "d") == []


# all other layers the same


def test_heads_of_one_layer_that_change_beside_the_same_layers_are_found(tmp_path: Path) -> None:
    def of(step: int, layer: int) -> AttentionCall:
        return replace(plain(0), num_heads=28 * (1 + layer), num_heads_k=4 * (1 + layer))

    prompts = replace(scene(of, layers=2), shape="serving")
    prompts = replace(prompts, calls=tuple(replace(one, phase="prefill") for one in prompts.calls))
    assert findings(prompts, tmp_path / "a") == []
    more = launches_of(replace(of(3, 1), num_heads=57, num_heads_k=57), H100, "2.8.3")
    found = findings(with_cells(prompts, {(3, 1): more}), tmp_path / "b")
    assert {one[:2] for one in found} == {(3, 1)}
