"""Thread blocks against slots: the arithmetic, and what shared memory and threads admit."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnprof.analysis.sm_fill import fill_rows, sm_fill
from attnprof.check.check_run import CheckedCall, Verdict
from attnprof.check.observed_shape import ObservedShape
from attnprof.dispatch import predict
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.gpus import GPUS, gpu_by_name
from attnprof.model import AttentionCall, KernelLaunch

DECODE = AttentionCall("flash_attn", "fwd", 1, 1, 4096, 40, 8, 128, causal=True)


def main_launch(batch: int, gpu: str, **changes: int) -> KernelLaunch:
    return predict(replace(DECODE, batch=batch, **changes), gpu_by_name(gpu)).launches[0]  # type: ignore[arg-type]


def test_33_sequences_of_8_kv_heads_are_one_wave_on_an_h100_and_34_are_two() -> None:
    gpu = gpu_by_name("h100")
    one, two = (sm_fill(main_launch(batch, "h100"), gpu) for batch in (33, 34))
    assert (one.thread_blocks, one.slots, one.whole_waves, one.last_wave) == (264, 264, 1, 264)
    assert (one.fill, one.sms_busy) == (1.0, 132)
    assert (two.thread_blocks, two.whole_waves, two.last_wave) == (272, 2, 8)
    assert two.fill == pytest.approx(272 / 528)


def test_a_small_grid_leaves_sms_without_a_block() -> None:
    fill = sm_fill(main_launch(1, "h100", num_heads=8, num_heads_k=1), gpu_by_name("h100"))
    assert (fill.thread_blocks, fill.sms_busy) == (32, 32)


@pytest.mark.parametrize(
    ("gpu", "admitted", "limit"),
    [("a100", 2, "shared memory"), ("h100", 2, "shared memory"), ("4090", 1, "shared memory")],
)
def test_shared_memory_may_admit_fewer_blocks_than_the_library_counts(
    gpu: str, admitted: int, limit: str
) -> None:
    # The split kernel of head_dim 128 takes 80 KiB, and the driver one more.
    fill = sm_fill(main_launch(1, gpu), gpu_by_name(gpu))
    assert (fill.admitted_per_sm, fill.limited_by, fill.per_sm) == (admitted, limit, admitted)


def test_small_blocks_are_counted_as_the_library_counts_them() -> None:
    fill = sm_fill(main_launch(1, "a100", head_dim=32), gpu_by_name("a100"))
    assert fill.admitted_per_sm > fill.per_sm == 2


def test_the_combine_kernel_is_bounded_by_threads_alone() -> None:
    gpu = gpu_by_name("h100")
    fill = sm_fill(predict(DECODE, gpu).launches[1], gpu)
    assert (fill.kernel, fill.limited_by) == ("flash_fwd_splitkv_combine_kernel", "threads")
    assert fill.per_sm == fill.admitted_per_sm == 2048 // 128
    assert not fill.is_main


def test_a_trace_without_shared_memory_gives_the_same_answer() -> None:
    for gpu in map(gpu_by_name, ("a100", "h100", "4090")):
        for head_dim in (32, 64, 96, 128, 192, 256):
            launch = predict(replace(DECODE, head_dim=head_dim), gpu).launches[0]
            assert sm_fill(replace(launch, dynamic_smem=0), gpu) == sm_fill(launch, gpu)


def test_every_kernel_that_is_predicted_fits_the_sm_it_is_predicted_for() -> None:
    for model in (one for one in GPUS if not one.name.startswith("AMD")):
        if model.sm < (8, 0):
            continue
        gpu = gpu_by_name(model.name)
        for head_dim in (32, 64, 96, 128, 192, 256):
            for call in (
                replace(DECODE, head_dim=head_dim),
                replace(DECODE, head_dim=head_dim, seqlen_q=4096),
            ):
                for launch in predict(call, gpu).launches:
                    assert sm_fill(launch, gpu).per_sm >= 1, (model.name, head_dim)


@given(
    st.integers(1, 5000), st.integers(1, 128), st.integers(1, 64), st.sampled_from(["a100", "h20", "4090"])
)
@settings(max_examples=200)
def test_waves_cover_the_blocks_and_the_last_is_never_empty(x: int, y: int, z: int, name: str) -> None:
    gpu = gpu_by_name(name)
    launch = replace(main_launch(1, name), grid=(x, y, z))
    fill = sm_fill(launch, gpu)
    assert fill.thread_blocks == x * y * z == (fill.whole_waves - 1) * fill.slots + fill.last_wave
    assert 1 <= fill.last_wave <= fill.slots
    assert 0 < fill.fill <= 1
    assert fill.sms_busy == min(gpu.num_sms, fill.thread_blocks)


def test_observed_calls_make_a_frame() -> None:
    gpu = gpu_by_name("a100")
    launches = tuple(replace(launch, dynamic_smem=0) for launch in predict(DECODE, gpu).launches)
    shape = ObservedShape(launches, tuple(parse_kernel_name(launch.kernel) for launch in launches))
    seen = [
        CheckedCall(Verdict.MATCH, "", seq, seq, "decode", 0, observed=shape) for seq in range(3)
    ]  # fmt: skip
    unseen = CheckedCall(Verdict.NOT_OBSERVED, "", 3, 3, "decode", 0)
    frame = pd.DataFrame(fill_rows([*seen, unseen], gpu))
    assert len(frame) == 6
    assert frame["seq"].tolist() == [0, 0, 1, 1, 2, 2]
    assert frame.loc[0, "thread_blocks"] == launches[0].grid[1] * 8
    assert set(frame.columns) >= {"grid", "kernel", "waves", "last_wave", "sms_busy", "fill"}
