"""Which backend SDPA takes: every recorded answer of the wheels, and the installed torch on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from attnprof.dispatch.torch_sdpa import backend as sdpa_backend
from attnprof.dispatch.torch_sdpa.backend import OUTRANKED, SdpaInputs, choose_backend
from attnprof.errors import UsageError
from attnprof.gpus import gpu_by_name
from attnprof.model import Gpu
from tests.conftest import golden_rows

FILE = "torch_sdpa_backends.jsonl.gz"
RECORDED = [
    "2.5.0", "2.5.1", "2.6.0", "2.7.1", "2.8.0", "2.9.0", "2.9.1",
    "2.10.0", "2.11.0", "2.12.0", "2.13.0", "2.14.0", "2.15.0",
]  # fmt: skip
FUSED = ("flash", "efficient", "cudnn")
A100, L40S = gpu_by_name("A100-SXM4-80GB"), gpu_by_name("L40S")
H100, B200 = gpu_by_name("H100 SXM5 80GB"), gpu_by_name("B200")
T4 = Gpu("Tesla T4", 7, 5, 40, 65536, 65536)


def inputs(**fields: Any) -> SdpaInputs:
    known = {"batch": 1, "num_heads": 32, "seqlen_q": 512, "seqlen_k": 512, "head_dim": 128}
    return SdpaInputs(**{**known, **fields})


def answers(version: str) -> Iterator[tuple[SdpaInputs, Gpu | None, list[str | None]]]:
    """The recorded inputs, GPU (None: the CPU) and [backend, what failed of flash, efficient, cudnn]."""
    for row in golden_rows(FILE):
        fields = dict(row["inputs"])
        shape = fields.pop("mask_shape")
        call = SdpaInputs(mask_shape=tuple(shape) if shape else None, **fields)
        for name, answer in row["answers"].get(version, {}).items():
            gpu = None if name == "cpu" else T4 if name == T4.name else gpu_by_name(name)
            yield call, gpu, answer


@pytest.mark.parametrize("version", RECORDED)
def test_takes_the_backend_that_the_wheel_takes(version: str) -> None:
    seen = set()
    for call, gpu, (backend, *_) in answers(version):
        seen.add(gpu)
        assert choose_backend(call, gpu, version).backend == backend, (call, gpu)
    assert {None, A100, H100, B200} <= seen


@pytest.mark.parametrize("version", RECORDED)
def test_names_the_condition_that_the_wheel_names(version: str) -> None:
    for call, gpu, (_, *failed) in answers(version):
        if gpu is None:
            continue
        reasons = {reason.rule: reason.value for reason in choose_backend(call, gpu, version).ruled_out}
        for backend, condition in zip(FUSED, failed, strict=True):
            assert reasons.get(backend, OUTRANKED) == (condition or OUTRANKED), (call, gpu, backend)


calls = st.builds(
    SdpaInputs,
    batch=st.integers(0, 3),
    num_heads=st.sampled_from([1, 2, 4, 8]),
    num_heads_k=st.sampled_from([1, 2, 3, 8]),
    seqlen_q=st.sampled_from([0, 1, 5, 64]),
    seqlen_k=st.sampled_from([0, 1, 5, 64]),
    head_dim=st.sampled_from([1, 8, 64, 100, 192, 256, 264]),
    head_dim_v=st.sampled_from([None, 64, 128]),
    dtype=st.sampled_from(["bf16", "fp16", "fp32", "fp64"]),
    is_causal=st.booleans(),
    dropout_p=st.sampled_from([0.0, 0.1, 0.25]),
    requires_grad=st.booleans(),
    enable_gqa=st.booleans(),
)
gpus = st.sampled_from([None, A100, L40S, H100, B200, T4])


@settings(deadline=None, max_examples=300)  # the first example imports torch
@given(calls, st.sampled_from(["none", "full", "rows", "row", "three", "wrong"]))
def test_the_installed_torch_takes_the_same_on_the_cpu(call: SdpaInputs, mask: str) -> None:
    torch = pytest.importorskip("torch")
    shapes = {
        "none": None,
        "full": (call.batch, call.num_heads, call.seqlen_q, call.seqlen_k),
        "rows": (call.seqlen_q, call.seqlen_k),
        "row": (1, 1, 1, call.seqlen_k),
        "three": (1, call.seqlen_q, call.seqlen_k),
        "wrong": (call.seqlen_q + 1, call.seqlen_k),
    }
    call = SdpaInputs(**{name: getattr(call, name) for name in call.__slots__} | {"mask_shape": shapes[mask]})
    try:
        choice = choose_backend(call, None, torch.__version__)
    except UsageError:
        pytest.skip(f"torch {torch.__version__} is outside the table")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}

    def tensor(heads: int, seqlen: int, dim: int) -> Any:
        size = (call.batch, heads, seqlen, dim)
        return torch.empty(size, dtype=dtype[call.dtype], requires_grad=call.requires_grad)

    qk, v = call.dims
    asked = torch._fused_sdp_choice(
        tensor(call.num_heads, call.seqlen_q, qk), tensor(call.heads_k, call.seqlen_k, qk),
        tensor(call.heads_k, call.seqlen_k, v),
        None if call.mask_shape is None else torch.ones(call.mask_shape, dtype=torch.bool),
        call.dropout_p, call.is_causal, enable_gqa=call.enable_gqa,
    )  # fmt: skip
    assert choice.backend == {0: "math", 1: "flash"}[int(asked)]


def test_every_change_of_the_table_is_recorded_in_its_own_series() -> None:
    series = {version.rpartition(".")[0] for version in RECORDED}
    assert {since.rpartition(".")[0] for since, _ in sdpa_backend._CHANGES} <= series
    patches = {since for since, _ in sdpa_backend._CHANGES if not since.endswith(".0")}
    assert patches <= set(RECORDED)


@given(calls, gpus, st.sampled_from(RECORDED))
def test_every_other_backend_has_one_reason_in_words(call: SdpaInputs, gpu: Gpu | None, version: str) -> None:
    choice = choose_backend(call, gpu, version)
    assert [choice.backend, *(reason.rule for reason in choice.ruled_out)] == sorted(
        choice.order, key=lambda backend: (backend != choice.backend, choice.order.index(backend))
    )
    assert all(reason.value and reason.why for reason in choice.ruled_out)
    before = choice.order.index(choice.backend)
    assert all(reason.value != OUTRANKED for reason in choice.ruled_out[:before])


@given(calls, gpus, st.sampled_from(RECORDED))
def test_math_runs_only_where_no_backend_before_it_can(
    call: SdpaInputs, gpu: Gpu | None, version: str
) -> None:
    choice = choose_backend(call, gpu, version)
    assume(choice.backend == "math")
    assert {"flash"} <= {reason.rule for reason in choice.ruled_out if reason.value != OUTRANKED}


@pytest.mark.parametrize(
    ("version", "gpu", "first"),
    [
        ("2.5.0", H100, "cudnn"), ("2.5.0", A100, "flash"),
        ("2.5.1", H100, "flash"), ("2.6.0", H100, "flash"), ("2.8.0", H100, "flash"),
        ("2.8.0", B200, "flash"), ("2.10.0", H100, "flash"), ("2.10.0", B200, "flash"),
        ("2.11.0", H100, "cudnn"), ("2.11.0", B200, "cudnn"), ("2.11.0", A100, "flash"),
        ("2.15.0", H100, "cudnn"), ("2.15.0", B200, "cudnn"), ("2.15.0", L40S, "flash"),
    ],
)  # fmt: skip
def test_cudnn_is_asked_first_on_hopper_in_2_5_0_and_on_hopper_and_blackwell_from_2_11(
    version: str, gpu: Gpu, first: str
) -> None:
    choice = choose_backend(inputs(), gpu, version)
    assert (choice.backend, choice.order[0]) == (first, first)


def test_from_2_5_1_to_2_10_cudnn_comes_after_math_and_so_never_runs() -> None:
    for version in ("2.5.1", "2.6.0", "2.7.0", "2.8.0", "2.9.0", "2.10.0"):
        choice = choose_backend(inputs(), H100, version)
        assert choice.order == ("flash", "efficient", "math", "cudnn")


def test_grouped_decode_with_a_mask_falls_to_math_until_2_14_on_ampere() -> None:
    call = inputs(num_heads_k=8, enable_gqa=True, seqlen_q=1, mask_shape=(1, 1, 1, 512))
    choice = choose_backend(call, A100, "2.13.0")
    assert choice.backend == "math"
    assert [reason.value for reason in choice.ruled_out[:2]] == [
        "check_for_attn_mask",
        "check_batch_size_and_num_heads_dense",
    ]
    assert choose_backend(call, A100, "2.14.0").backend == "efficient"


def test_blackwell_has_only_math_before_2_7() -> None:
    choice = choose_backend(inputs(), B200, "2.6.0")
    assert choice.backend == "math"
    assert "sm 10.0 is outside sm 8.0 to 9.0" in [reason.why for reason in choice.ruled_out]


def test_decode_on_blackwell_leaves_cudnn_in_2_14_alone() -> None:
    decode = inputs(seqlen_q=1)
    taken = [choose_backend(decode, B200, version).backend for version in ("2.13.0", "2.14.0", "2.15.0")]
    assert taken == ["cudnn", "flash", "cudnn"]


def test_a_causal_call_of_unequal_lengths_is_not_flash() -> None:
    choice = choose_backend(inputs(seqlen_q=64, is_causal=True), A100, "2.8.0")
    assert choice.backend == "efficient"
    assert choice.ruled_out[0].value == "check_flash_causal_non_square_seqlens"
    assert choice.ruled_out[0].why == "is_causal with 64 queries and 512 keys"


@pytest.mark.parametrize("version", ["2.4.1", "2.16.0"])
def test_versions_outside_the_table_are_refused(version: str) -> None:
    with pytest.raises(UsageError, match="not modelled"):
        choose_backend(inputs(), A100, version)


def test_a_mask_of_one_dimension_is_no_call() -> None:
    with pytest.raises(ValueError, match="at least two dimensions"):
        inputs(mask_shape=(512,))
