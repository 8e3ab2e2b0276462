"""Calls a serving library's own Python functions, hooked, with what launches kernels replaced.

``python hooked_libraries.py CASE FOLDER`` prints the records as JSON lines; FOLDER holds the library's Python
files where it is not installed. Tensors are on torch's meta device: whoever reads one of them fails.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])  # a neighbour of this file is called secrets

import torch  # noqa: E402

from attnprof.instrument.engines import hooks  # noqa: E402
from attnprof.instrument.engines.packed_steps import Request, begin_step  # noqa: E402
from attnprof.instrument.recorder import Recorder  # noqa: E402
from tests.support.absent_modules import stand_in_for  # noqa: E402

STEP = {"a": Request(0, 1, 40, False), "b": Request(1, 6, 6, True), "c": Request(2, 1, 300, False)}


def on(*sizes: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*sizes, dtype=dtype, device="meta")


def whole(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def lengths(count: int) -> torch.Tensor:
    return on(count, dtype=torch.int32)


def hooked(recorder: Recorder, name: str) -> Any:
    module = importlib.import_module(name)
    hooks.hook(recorder, module)
    return module


def vllm_flash_attn(recorder: Recorder) -> None:
    package = "vllm.vllm_flash_attn"
    stand_in_for(f"{package}._vllm_fa2_C", f"{package}._vllm_fa3_C", f"{package}.cute",
                 f"{package}.cute.interface")  # fmt: skip
    module = hooked(recorder, f"{package}.flash_attn_interface")
    importlib.import_module(f"{package}.cute.interface")
    answer = (on(8, 32, 128), None, None, None)
    torch.ops._vllm_fa2_C = types.SimpleNamespace(varlen_fwd=lambda *a: answer[:2])
    torch.ops._vllm_fa3_C = types.SimpleNamespace(fwd=lambda *a: answer)
    sys.modules[f"{package}.cute.interface"]._flash_attn_fwd = lambda *a, **k: answer
    q, cache, table = on(8, 32, 128), on(100, 16, 8, 128), on(3, 20, dtype=torch.int32)
    for version in (2, 3, 4):
        module.flash_attn_varlen_func(
            q, cache, cache, max_seqlen_q=6, cu_seqlens_q=lengths(4), max_seqlen_k=300, seqused_k=lengths(3),
            softmax_scale=0.1, causal=True, window_size=[-1, -1], block_table=table, fa_version=version,
            num_splits=32 if version == 3 else 0,
        )  # fmt: skip


def vllm_triton(recorder: Recorder) -> None:
    module = hooked(recorder, "vllm.v1.attention.ops.triton_unified_attention")
    cache = on(100, 16, 8, 128)
    given = dict.fromkeys(("q_descale", "k_descale", "v_descale"))
    for used in (lengths(3), whole(40, 6, 300)):
        starts = lengths(4) if used.device.type == "meta" else whole(0, 1, 7, 8)
        call(
            module.unified_attention, on(8, 32, 128), cache, cache, on(8, 32, 128), starts, 6, used, 300, 0.1,
            True, (-1, -1), on(3, 20, dtype=torch.int32), 0.0, **given, seq_threshold_3D=16,
            num_par_softmax_segments=16,
        )  # fmt: skip
    decode = hooked(recorder, "vllm.v1.attention.ops.triton_decode_attention")
    call(
        decode.decode_attention_fwd, on(3, 16, 576), on(100, 16, 1, 576), on(100, 16, 1, 512), on(3, 16, 512),
        on(3, 16), on(3, 20, dtype=torch.int32), lengths(3), on(3, 16, 4, 513), 4, 0.1, page_size=16,
    )  # fmt: skip


def cute(recorder: Recorder) -> None:
    stand_in_for("cutlass", "cuda", "quack", "tvm_ffi")
    module = importlib.import_module("flash_attn.cute.interface")
    real = module._flash_attn_fwd

    @functools.wraps(real)
    def launch(q: Any, *args: Any, **kwargs: Any) -> Any:
        return (torch.empty_like(q), None, None, None, None)

    module._flash_attn_fwd = launch
    hooks.hook(recorder, module)
    q, cache = on(8, 32, 128), on(100, 128, 8, 128)
    module.flash_attn_varlen_func(
        q, cache, cache, cu_seqlens_q=lengths(4), seqused_k=lengths(3), max_seqlen_q=6, max_seqlen_k=300,
        page_table=on(3, 20, dtype=torch.int32), causal=True, num_splits=0,
    )  # fmt: skip
    whole_q = on(2, 64, 32, 128)
    module.flash_attn_func(whole_q, on(2, 64, 8, 128), on(2, 64, 8, 128), window_size=(15, 0))


def bare_package(name: str, folder: str) -> None:
    """A package without what its ``__init__`` loads: the binary part."""
    package = types.ModuleType(name)
    package.__path__ = [str(Path(folder) / name)]
    sys.modules[name] = package


def sgl_kernel(recorder: Recorder, folder: str) -> None:
    bare_package("sgl_kernel", folder)
    sys.modules["sgl_kernel"].flash_ops = None  # type: ignore[attr-defined]
    stand_in_for("sgl_kernel.flashmla_ops", "sgl_kernel.flash_ops")
    module = hooked(recorder, "sgl_kernel.flash_attn")
    module.is_fa3_supported = lambda *a: True
    answer = (on(8, 32, 128), None)
    torch.ops.sgl_kernel = types.SimpleNamespace(
        fwd=types.SimpleNamespace(default=lambda *a, **k: answer)
    )  # fmt: skip
    module.flash_attn_with_kvcache(
        on(8, 32, 128), on(100, 16, 8, 128), on(100, 16, 8, 128), cache_seqlens=lengths(3),
        page_table=on(3, 20, dtype=torch.int32), cu_seqlens_q=lengths(4), max_seqlen_q=6, causal=True,
        num_splits=1,
    )  # fmt: skip
    module.flash_attn_varlen_func(
        on(8, 32, 128), on(8, 8, 128), on(8, 8, 128), cu_seqlens_q=whole(0, 3, 8),
        cu_seqlens_k=whole(0, 3, 8), max_seqlen_q=5, max_seqlen_k=5,
    )  # fmt: skip
    mla = hooked(recorder, "sgl_kernel.flash_mla")
    call(
        mla.flash_mla_with_kvcache, on(3, 1, 128, 576), on(100, 64, 1, 576), on(3, 20, dtype=torch.int32),
        whole(40, 6, 300), 512,
        on(4, 8, dtype=torch.int32), on(4, dtype=torch.int32), causal=True,
    )  # fmt: skip


def sglang_triton(recorder: Recorder) -> None:
    """SGLang's Triton backend; only what launches the kernels is replaced."""
    stand_in_for("orjson", "IPython", "pybase64", "setproctitle", "dill")  # of its servers and front ends
    ops = "sglang.kernels.ops.attention"
    decode, extend = hooked(recorder, f"{ops}.decode_attention"), hooked(recorder, f"{ops}.extend_attention")
    launched: list[Any] = []
    decode.decode_attention_fwd_grouped = decode.decode_attention_fwd_normal = lambda *a, **k: (
        launched.append(a)
    )

    class Kernel:
        def __getitem__(self, grid: Any) -> Any:
            return lambda *a, **k: launched.append(grid)

    extend._fwd_kernel = Kernel()
    extend._get_block_sizes_for_extend_attention = lambda *a: (128, 0, 128, 64, 64, 4)  # asks the GPU
    q, cache, many = on(3, 32, 128), on(1000, 8, 128), on(346, dtype=torch.int64)
    for keys in (cache, on(62, 16, 8, 128)):  # tokens in a row, or pages of a shared pool
        decode.decode_attention_fwd(
            q, keys, keys, on(3, 32, 128), lengths(4), many, on(3, 32, 8, 128), on(3, 32, 8), lengths(3), 8,
            0.1, 1.0, 1.0, logit_cap=30.0, page_size=1 if keys is cache else 16,
        )  # fmt: skip
    new, old = on(8, 32, 128), on(8, 8, 128)
    for window in (-1, 127):
        extend.extend_attention_fwd(
            new, old, old, on(8, 32, 128), cache, cache, lengths(4), lengths(4), many, None, True, None, 6,
            1.0, 1.0, sm_scale=0.1, sliding_window_size=window,
        )  # fmt: skip
    assert len(launched) == 4
    assert launched[2:] == [(3, 32, 1)] * 2
    extend._fwd_kernel_unified = Kernel()
    extend.extend_attention_fwd_unified(
        new, on(8, 32, 128), cache, cache, 1.0, 1.0, lengths(4), lengths(4), many, lengths(3), 6, sm_scale=0.1
    )
    assert launched[4:] == [(3, 32, 1)]


def flash_mla(recorder: Recorder, folder: str) -> None:
    """FlashMLA as SGLang ships it, dense decoding and sparse; a binary per kind of kernel is replaced."""
    bare_package("flash_mla", folder)
    stand_in_for("flash_mla._loader")
    module = hooked(recorder, "flash_mla.flash_mla_interface")
    _mla(module, use_legacy=True)


def vllm_flash_mla(recorder: Recorder, folder: str) -> None:
    """FlashMLA as vLLM's build for GPUs ships it: that file of its wheel, in the vLLM that is installed."""
    import vllm.third_party.flashmla

    vllm.third_party.flashmla.__path__.insert(0, str(Path(folder) / "vllm" / "third_party" / "flashmla"))
    stand_in_for("vllm._flashmla_C")
    _mla(hooked(recorder, "vllm.third_party.flashmla.flash_mla_interface"))


def _mla(module: Any, **more: Any) -> None:
    answer = (on(3, 1, 128, 512), on(3, 128, 1), None, None)
    binary = types.SimpleNamespace(
        dense_decode_fwd=lambda *a: answer, sparse_decode_fwd=lambda *a, **k: answer,
        sparse_prefill_fwd=lambda *a, **k: answer,
    )  # fmt: skip
    module.get_ops, module.flash_mla_cuda = lambda legacy: binary, binary
    q, meta = on(3, 1, 128, 576), module.FlashMLASchedMeta
    module.flash_mla_with_kvcache(
        q, on(100, 64, 1, 576), on(3, 20, dtype=torch.int32), whole(40, 6, 300), 512, meta(),
        softmax_scale=0.1, causal=True, **more,
    )  # fmt: skip
    module.flash_mla_with_kvcache(
        q, on(100, 64, 1, 656, dtype=torch.uint8), None, None, 512, meta(), is_fp8_kvcache=True,
        indices=on(3, 1, 2048, dtype=torch.int32), **more,
    )  # fmt: skip
    prompt = on(8, 1, 2048, dtype=torch.int32)
    module.flash_mla_sparse_fwd(on(8, 128, 576), on(900, 1, 576), prompt, 0.1, **more)


def flashinfer(recorder: Recorder) -> None:
    stand_in_for("pynvml", "cuda", "cutlass", "cudnn", "nvtx")
    prefill = hooked(recorder, "flashinfer.prefill")
    decode = hooked(recorder, "flashinfer.decode")
    unplanned = object.__new__(prefill.BatchPrefillWithPagedKVCacheWrapper)
    wrapper = object.__new__(prefill.BatchPrefillWithPagedKVCacheWrapper)
    decoding = object.__new__(decode.BatchDecodeWithPagedKVCacheWrapper)
    for one in (wrapper, decoding):
        one._backend, one._use_cuda_graph = "fa2", False
    # The planner and the kernels are compiled code; the arguments are checked by Python first.
    plan = (whole(0, 1, 7, 8), whole(0, 3, 4, 23), lengths(23), whole(8, 6, 12), 32, 8, 128, 16)
    call(wrapper.plan, *plan, causal=True, q_data_type=torch.bfloat16, fixed_split_size=4)
    call(wrapper.run, on(8, 32, 128), on(100, 2, 16, 8, 128))
    call(decoding.plan, whole(0, 3, 4, 23), lengths(23), whole(8, 6, 12), 32, 8, 128, 16)
    call(decoding.run, on(3, 32, 128), (on(100, 16, 8, 128), on(100, 16, 8, 128)))
    call(decoding.plan, lengths(4), lengths(23), lengths(3), 32, 8, 128, 16)
    call(decoding.run, on(3, 32, 128), (on(100, 16, 8, 128), on(100, 16, 8, 128)))
    call(unplanned.run, on(8, 32, 128), on(100, 2, 16, 8, 128))


def flashinfer_functions(recorder: Recorder) -> None:
    """What runs TensorRT-LLM's kernels, and the wrappers over packed keys and latents."""
    stand_in_for("pynvml", "cuda", "cutlass", "cudnn", "nvtx")
    mla = hooked(recorder, "flashinfer.mla")
    prefill = hooked(recorder, "flashinfer.prefill")
    decode = hooked(recorder, "flashinfer.decode")
    for module in (prefill, decode, sys.modules["flashinfer.mla._core"]):
        module.get_trtllm_gen_fmha_module = None  # which would fetch the table of kernels
    work, table, used = on(1, dtype=torch.uint8), on(3, 20, dtype=torch.int32), whole(40, 6, 300)
    cache, starts = on(100, 2, 8, 16, 128), whole(0, 1, 7, 8)
    call(decode.trtllm_batch_decode_with_kv_cache, on(3, 32, 128), cache, work, table, used, 4096)
    call(
        decode.trtllm_batch_decode_with_kv_cache, on(12, 32, 128), (on(100, 16, 8, 128), on(100, 16, 8, 128)),
        work, table, lengths(3), 4096, window_left=127, kv_layout="NHD", q_len_per_req=4,
    )  # fmt: skip
    call(
        prefill.trtllm_batch_context_with_kv_cache, on(8, 32, 128), cache, work, table, used, 6, 300, 1.0,
        1.0, 3, starts, lengths(4),
    )  # fmt: skip
    call(
        decode.trtllm_batch_decode_with_kv_cache_mla, on(3, 2, 128, 576), on(100, 64, 576), work, 128, 512,
        64, table, used, 4096, sparse_mla_top_k=2048, backend="trtllm-gen",
    )  # fmt: skip
    call(
        prefill.trtllm_ragged_attention_deepseek, on(8, 128, 192), on(8, 128, 192), on(8, 128, 128), work,
        used, 6, 6, 0.1, 1.0, 1.0, 3, -1, starts, starts, False, True, False,
    )  # fmt: skip
    ragged = object.__new__(prefill.BatchPrefillWithRaggedKVCacheWrapper)
    latent = object.__new__(mla.BatchMLAPagedAttentionWrapper)
    for one in (ragged, latent):
        one._backend, one._use_cuda_graph = "fa2", False
    call(ragged.begin_forward, starts, starts, 32, 8, 128, causal=True)
    call(ragged.run, on(8, 32, 128), on(8, 8, 128), on(8, 8, 128))
    ends = whole(0, 40, 46, 346)
    call(latent.plan, whole(0, 1, 2, 3), ends, lengths(346), used, 128, 512, 64, 1, False, 0.1,
         torch.bfloat16, torch.bfloat16)  # fmt: skip
    call(latent.run, on(3, 128, 512), on(3, 128, 64), on(1000, 1, 512), on(1000, 1, 64))


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """What lies behind a function is not there: it fails after it was recorded."""
    with contextlib.suppress(Exception):
        function(*args, **kwargs)


def xformers(recorder: Recorder) -> None:
    module = hooked(recorder, "xformers.ops.fmha")

    class Operator:
        NAME = "fa3F@2.5.7"

        @staticmethod
        def apply(inputs: Any, needs_gradient: bool) -> Any:
            return torch.empty_like(inputs.query), None

    module._dispatch_fw = lambda *a: Operator
    module._ensure_op_supports_or_raise = lambda *a: None
    q = torch.empty(2, 64, 8, 128)
    module.memory_efficient_attention(q, q, q, attn_bias=module.attn_bias.LowerTriangularMask())
    call(module.memory_efficient_attention, q, q, q, op=(Operator, None))


def hub(recorder: Recorder) -> None:
    kernels = types.ModuleType("kernels")
    loaded = types.ModuleType("flash_attn3_build")

    def flash_attn_func(q: Any, k: Any, v: Any, softmax_scale: Any = None, causal: bool = False) -> Any:
        return q

    loaded.flash_attn_func = flash_attn_func  # type: ignore[attr-defined]
    kernels.get_kernel = lambda repo, **options: loaded  # type: ignore[attr-defined]
    hooks.hook(recorder, kernels)
    for _ in range(2):
        module = kernels.get_kernel("org/flash-attn3", version=1)
    module.flash_attn_func(on(2, 64, 32, 128), on(2, 64, 8, 128), on(2, 64, 8, 128), causal=True)


def main(case: str, folder: str) -> None:
    if folder:
        sys.path.insert(0, folder)
    recorder = Recorder()
    outer = begin_step(recorder, STEP, 0)
    run = globals()[case]
    by_folder = case in ("sgl_kernel", "flash_mla", "vllm_flash_mla")
    run(recorder, folder) if by_folder else run(recorder)
    recorder.end_step(outer)
    written = Path(tempfile.mkdtemp()) / "calls.jsonl"
    recorder.write(written)
    for line in written.read_text().splitlines():
        print("RECORD", json.dumps(json.loads(line)))


if __name__ == "__main__":
    main(*sys.argv[1:])
