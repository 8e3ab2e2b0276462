"""Strategies for traces and calls that are almost right: a few things in them are wrong."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.hostile import NAMES, NUMBERS, TEXTS, storable
from tests.support.build_trace import TraceBuilder, global_tid

_TRAITS = "Flash_fwd_kernel_traits<128, 64, 128, 4, false, false, cutlass::half_t, Flash_kernel_traits<128>>"
_FLAGS = "false, false, false, false, true, true, false"
SPLIT = f"void flash_fwd_splitkv_kernel<{_TRAITS}, {_FLAGS}>(Flash_fwd_params)"
COMBINE = f"void flash_fwd_splitkv_combine_kernel<{_TRAITS}, 4, 3, true>(Flash_fwd_params)"
KERNELS = (SPLIT, COMBINE, "gemm", "flash_fwd_kernel<", "")  # StringIds from 10 on

anything = st.recursive(
    st.sampled_from(NUMBERS) | st.sampled_from(TEXTS) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from([storable(text) for text in TEXTS if len(text) < 100])


@st.composite
def spoiled(draw: st.DrawFn, good: st.SearchStrategy[Any], most: int = 2) -> Any:
    """A document with up to ``most`` of its values replaced by anything, removed or doubled."""
    document = copy.deepcopy(draw(good))
    for _ in range(draw(st.integers(0, most))):
        places = [place for place in _places(document) if place]
        if not places:
            break
        place = draw(st.sampled_from(places))
        key = draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        if draw(st.integers(0, 4)) == 0:
            del place[key]
        else:
            place[key] = draw(anything)
    return document


def _places(value: Any) -> list[Any]:
    """Every object and list of a document, itself first."""
    if not isinstance(value, (dict, list)):
        return []
    inner = value.values() if isinstance(value, dict) else value
    return [value, *(place for item in inner for place in _places(item))]


_moments = st.integers(-5, 60)
_small = st.integers(0, 3)
_ids = _small | st.sampled_from([n for n in NUMBERS if isinstance(n, int) and abs(n) < 2**63])
_threads = st.sampled_from([global_tid(7, 7)] * 4 + [global_tid(7, 8), global_tid(8, 8), 0, -1, 2**63 - 1])
_said = st.sampled_from(["attnprof", "decode", "prefill", "layer", "attn", "step 3", "decode step 4"])
_ranges = st.fixed_dictionaries(
    {
        "start": _moments,
        "end": st.none() | _moments,
        "eventType": st.sampled_from([59] * 6 + [60, 60, 75, 34, -1]),
        "globalTid": _threads,
        "domainId": _small,
        "text": st.none() | _said | names,
        "int64Value": st.none() | _small | _ids,
    }
)
_calls = st.fixed_dictionaries(
    {"start": _moments, "end": _moments, "globalTid": _threads, "correlationId": _small}
)
_kernels = st.fixed_dictionaries(
    {
        "start": _moments,
        "end": _moments,
        "correlationId": _small,
        "globalPid": _threads,
        "deviceId": st.sampled_from([0, 0, 0, 1, 2**31, -1]),
        "streamId": _ids,
        "graphNodeId": st.sampled_from([0, 0, 0, 1, 2**63 - 1]),
        "gridX": st.integers(1, 3) | _ids,
        "gridY": st.integers(1, 6) | _ids,
        "gridZ": st.integers(1, 32) | _ids,
        "demangledName": st.integers(9, 9 + len(KERNELS)),
    }
)
tables = st.fixed_dictionaries(
    {
        "NVTX_EVENTS": st.lists(_ranges, max_size=12),
        "CUPTI_ACTIVITY_KIND_RUNTIME": st.lists(_calls, max_size=6),
        "CUPTI_ACTIVITY_KIND_KERNEL": st.lists(_kernels, max_size=8),
    }
)
_far = st.sampled_from([2**40, 2**58, 2**62, -(2**63), 2**63 - 1])


@st.composite
def far_tables(draw: st.DrawFn) -> dict[str, Any]:
    """The same with one time far from the others."""
    found = copy.deepcopy(draw(tables))
    rows = [row for table in found.values() for row in table]
    if rows:
        draw(st.sampled_from(rows))[draw(st.sampled_from(["start", "end"]))] = draw(_far)
    return found


sm_counts = st.sampled_from([132, 132, 1, 0, None, -5, 2**31 - 1, 2**40, "many", 1.5])


def export(path: Path, rows: dict[str, list[dict[str, Any]]], sms: object = 132) -> Path:
    """An nsys export of these rows, in place of any there is."""
    builder = TraceBuilder()
    builder.add("TARGET_INFO_GPU", vmId=1, id=0, name="H100", smCount=sms, computeMajor=9, computeMinor=0)
    for name in KERNELS:
        builder.string(name)
    for table, some in rows.items():
        for row in some:
            builder.add(table, **row)
    path.unlink(missing_ok=True)
    return builder.write(path)


_OP = {
    "Input Dims": [[1, 64, 4, 128]] * 3 + [[]] * 10,
    "Input type": ["c10::Half"] * 3 + [""] * 10,
    "Concrete Inputs": ["", "", "", "", "", "64", "64", "0.", "True", "False", "", "-1", "-1"],
}
_categories = st.sampled_from(["kernel", "kernel", "cuda_runtime", "cpu_op", "user_annotation", "gpu_memcpy"])
_titles = st.sampled_from(
    [SPLIT, COMBINE, "aten::_flash_attention_forward", "decode step 3", "attnprof:attn:1", "cudaGraphLaunch"]
)
_events = st.fixed_dictionaries(
    {
        "ph": st.sampled_from(["X"] * 6 + ["B", "M"]),
        "cat": _categories,
        "name": _titles | names,
        "ts": st.integers(0, 50) | st.floats(0, 50),
        "dur": st.integers(0, 50),
        "pid": _small,
        "tid": _small,
        "args": st.fixed_dictionaries(
            {"correlation": _small, "stream": _small, "device": _small},
            optional={
                "grid": st.lists(st.integers(1, 9), min_size=3, max_size=3),
                "block": st.just([128, 1, 1]),
                **{name: st.just(value) for name, value in _OP.items()},
            },
        ),
    }
)
documents = st.fixed_dictionaries(
    {
        "traceEvents": st.lists(_events, max_size=8),
        "deviceProperties": st.lists(
            st.fixed_dictionaries(
                {"id": _small, "numSms": st.just(132), "name": names, "computeMajor": st.just(9)}
            ),
            max_size=2,
        ),
        "schemaVersion": st.just(1),
    }
)
_flags = st.booleans()
attention_calls = st.fixed_dictionaries(
    {
        **dict.fromkeys(("batch", "seqlen_q", "seqlen_k"), st.integers(0, 4096)),
        **dict.fromkeys(("num_heads", "num_heads_k"), st.sampled_from([1, 4, 8, 28])),
        "head_dim": st.sampled_from([64, 72, 128, 256, 300]),
    },
    optional={
        "entry": st.sampled_from(["fwd", "varlen_fwd", "fwd_kvcache"]),
        "library": st.sampled_from(["flash_attn", "torch", "flash_attn_3", "vllm_flash_attn"]),
        "dtype": st.sampled_from(["bf16", "fp16", "fp32", "fp8"]),
        **dict.fromkeys(
            ("causal", "alibi", "return_softmax", "cache_batch_idx", "scheduler_metadata"), _flags
        ),
        **dict.fromkeys(("window_left", "window_right", "num_splits_arg"), st.integers(-1, 200)),
        **dict.fromkeys(("softcap", "dropout_p"), st.sampled_from([0.0, 0.5, 30])),
        **dict.fromkeys(
            ("page_block_size", "head_dim_v", "seqlen_knew"), st.none() | st.sampled_from([64, 128, 256])
        ),
        "seqlens_q": st.lists(st.integers(0, 99), max_size=3),
        "pack_gqa": st.none() | _flags,
        "attention_chunk": st.integers(0, 64),
        "sm_margin": st.integers(0, 200),
        "device": st.sampled_from(["a100", "h100", "4090"]),
        "version": st.none() | st.sampled_from(["2.8.3", "2.2.4", "3.0.0", "2.6.0"]),
    },
)
