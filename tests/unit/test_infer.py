"""The KV lengths inferred from a launch always contain the true one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnprof.dispatch import predict
from attnprof.dispatch.flash_attn2.kv_lengths import infer_call
from attnprof.dispatch.intervals import Interval, first_length, intersect, union
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.gpus import GPUS, gpu_by_name
from attnprof.model import AttentionCall

HEADS = st.sampled_from([(28, 4), (32, 32), (32, 8), (64, 8), (40, 8), (12, 12), (71, 1)])
GPU_NAMES = st.sampled_from(
    [gpu.name for gpu in GPUS if (8, 0) <= gpu.sm <= (9, 0) and "AMD" not in gpu.name]
)


def decode(
    seqlen_k: int, *, batch: int = 1, num_heads: int = 28, num_heads_k: int = 4, head_dim: int = 128
) -> AttentionCall:
    return AttentionCall(
        "flash_attn", "fwd", batch, 1, seqlen_k, num_heads, num_heads_k, head_dim, causal=True
    )


@given(
    gpu=GPU_NAMES,
    heads=HEADS,
    batch=st.integers(1, 64),
    seqlen_q=st.one_of(st.just(1), st.integers(1, 300)),
    seqlen_k=st.integers(1, 200_000),
    head_dim=st.sampled_from([32, 64, 80, 96, 128, 192, 256]),
    version=st.sampled_from(["2.6.3", "2.7.4.post1", "2.8.3"]),
)
@settings(max_examples=300, deadline=None)
def test_the_inferred_lengths_contain_the_true_one(
    gpu: str, heads: tuple[int, int], batch: int, seqlen_q: int, seqlen_k: int, head_dim: int, version: str
) -> None:
    device = gpu_by_name(gpu)
    call = AttentionCall("flash_attn", "fwd", batch, seqlen_q, seqlen_k, *heads, head_dim, causal=True)
    prediction = predict(call, device, version)
    launch = prediction.launches[0]
    inferred = infer_call(parse_kernel_name(launch.kernel), launch.grid, device.num_sms)
    assert inferred is not None
    assert inferred.num_splits == prediction.num_splits
    assert any(seqlen_k in interval for interval in inferred.seqlen_k)


@pytest.mark.parametrize("first", [100, 129, 500, 1000])
def test_a_split_change_pins_the_length_of_the_first_step(first: int) -> None:
    h100 = gpu_by_name("h100")
    steps = []
    for seqlen_k in range(first, first + 150):
        launch = predict(decode(seqlen_k), h100).launches[0]
        inferred = infer_call(parse_kernel_name(launch.kernel), launch.grid, h100.num_sms)
        assert inferred is not None
        steps.append(inferred.seqlen_k)
    assert first_length(steps) == (Interval(first, first),)


@given(st.data())
def test_the_first_length_is_every_length_whose_followers_the_steps_allow(data: st.DataObject) -> None:
    ends = st.tuples(st.integers(1, 30), st.none() | st.integers(0, 9))
    interval = ends.map(lambda end: Interval(end[0], None if end[1] is None else end[0] + end[1]))
    runs = data.draw(st.lists(st.tuples(st.lists(interval, max_size=3), st.integers(1, 6)), max_size=5))
    steps = [union([tuple(lengths)]) for lengths, times in runs for _ in range(times)]
    found = first_length(steps)
    for first in range(1, 45):
        follows = all(any(first + n in one for one in lengths) for n, lengths in enumerate(steps))
        assert any(first in one for one in found) == follows


def test_one_step_gives_the_block_of_keys() -> None:
    launch = predict(decode(300), gpu_by_name("a100")).launches[0]
    inferred = infer_call(parse_kernel_name(launch.kernel), launch.grid, 108)
    assert inferred is not None
    assert (inferred.num_splits, inferred.batch_heads, inferred.seqlen_k) == (3, 4, (Interval(257, 384),))


def test_a_length_that_no_rule_explains_gives_no_interval() -> None:
    launch = predict(decode(300), gpu_by_name("a100")).launches[0]
    inferred = infer_call(parse_kernel_name(launch.kernel), (1, 127, 400), 108)
    assert inferred is not None
    assert inferred.seqlen_k == ()


def test_interval_sets() -> None:
    a, b = (Interval(1, 5), Interval(9, None)), (Interval(4, 10),)
    assert union([a, b]) == (Interval(1, None),)
    assert intersect(a, b) == (Interval(4, 5), Interval(9, 10))
    assert [str(i) for i in (*a, Interval(3, 3))] == ["1–5", "≥9", "3"]


@pytest.mark.parametrize("grid", [(0, 1, 1), (1, -4, 8), (1, 1, 65_536), (2**31, 1, 1), (1, 2**40, 2**40)])
def test_a_grid_that_no_gpu_takes_implies_nothing(grid: tuple[int, int, int]) -> None:
    (launch,) = predict(decode(100), gpu_by_name("h100")).launches
    signature = parse_kernel_name(launch.kernel)
    assert infer_call(signature, launch.grid, 132) is not None
    assert infer_call(signature, grid, 132) is None
