"""Which prompts of sparse MLA vLLM 0.33 attends with keys and values of every head, and not absorbed.

Source: vllm/model_executor/layers/attention/mla_attention.py (``_use_sparse_mha``,
``_MASKED_MHA_THRESHOLDS``) and sparse_mla_attention.py (``_use_dense_mha_prefill``,
``_is_masked_mha_available``, ``_topk_mask_shape``) of the wheel; the answers agree with these functions
(tests/data/golden, vllm_mla_steps).
"""

from __future__ import annotations

from attnprof.dispatch.engines.layer import Layer, Sm, Step
from attnprof.dispatch.engines.vllm.conditions import quantized
from attnprof.dispatch.engines.vllm.flash_attention import Asked, choose
from attnprof.dispatch.engines.vllm.mla_prefill import context_chunks, prefill_backend
from attnprof.dispatch.heuristic import ceil_div

_ROOM = 32 * 1024 * 1024  # 32-bit words of the masks' workspace
_MASKED = {  # (all heads, rotated not, rotated, V) of the models that a mask was measured for
    (128, 128, 64, 128), (64, 192, 64, 256), (64, 256, 0, 256),
}  # fmt: skip
_WITHOUT = ("FLASHINFER_MLA_SPARSE_SM120",)  # backends without such prompts
Ranges = tuple[tuple[int, int], ...]  # keys at most -> queries at least
_K = 1024
_THRESHOLDS: dict[tuple[int, str, int], tuple[Ranges, Ranges | None]] = {  # by head dim, backend and ranks
    (192, "FLASHMLA_SPARSE", 1): (((2048, 1536), (4096, 4096)), None),
    (192, "FLASHMLA_SPARSE", 2): (((2048, 512), (4096, 1024), (8192, 4096)), None),
    (192, "FLASHMLA_SPARSE", 4): (((2048, 512), (4096, 1024), (8192, 1536), (16384, 8192)), None),
    (192, "FLASHMLA_SPARSE", 8): (
        ((2048, 512), (4096, 512), (8192, 1024), (16384, 2048), (32768, 16384)), None,
    ),
    (192, "FLASHINFER_MLA_SPARSE", 8): (
        ((2048, 512), (4096, 1024), (8192, 1024), (16384, 2048), (32768, 32768)), None,
    ),
    (256, "FLASHMLA_SPARSE", 1): (((8 * _K, 0),), ()),
    (256, "FLASHMLA_SPARSE", 2): (((20 * _K, 0),), ((6 * _K, 4 * _K), (10 * _K, 8 * _K))),
    (256, "FLASHMLA_SPARSE", 4): (
        ((48 * _K, 0),), ((8 * _K, 4 * _K), (16 * _K, 8 * _K), (24 * _K, 16 * _K), (34 * _K, 32 * _K)),
    ),
    (256, "FLASHMLA_SPARSE", 8): (
        ((112 * _K, 0),), ((8 * _K, 4 * _K), (16 * _K, 8 * _K), (32 * _K, 16 * _K), (48 * _K, 32 * _K)),
    ),
    (256, "FLASHINFER_MLA_SPARSE", 4): (
        ((36 * _K, 0),), ((12 * _K, 4 * _K), (16 * _K, 8 * _K), (24 * _K, 16 * _K), (28 * _K, 24 * _K)),
    ),
    (256, "FLASHINFER_MLA_SPARSE", 8): (
        ((64 * _K, 0),),
        (
            (20 * _K, 4 * _K), (24 * _K, 8 * _K), (32 * _K, 16 * _K), (48 * _K, 32 * _K), (56 * _K, 40 * _K),
            (64 * _K, 48 * _K), (72 * _K, 56 * _K),
        ),
    ),
}  # fmt: skip


def attended_densely(backend: str, layer: Layer, step: Step, sm: Sm) -> bool:
    """Whether the prompts have no more keys than are picked, and a backend of prefill their head dims."""
    wide = backend == "FLASHMLA_SPARSE" and layer.kv_dtype == "fp8_ds_mla" and layer.qk_rope_head_dim == 0
    able = backend not in _WITHOUT and not wide and prefill_backend(layer, sm) != ""
    return able and step.seqlen_k <= layer.index_topk


def attended_under_mask(backend: str, layer: Layer, step: Step, sm: Sm) -> bool:
    """Whether FlashAttention-4 attends the prompts under a mask of the keys picked.

    How many ranks there are follows from the layer's heads and the model's.
    """
    wide, narrow = layer.qk_nope_head_dim + layer.qk_rope_head_dim, layer.v_head_dim or 128
    parts = (layer.qk_nope_head_dim, layer.qk_rope_head_dim, narrow)
    model = next((heads for heads, *dims in _MASKED if tuple(dims) == parts), 0)
    if (
        backend in _WITHOUT
        or sm[0] != 10
        or not model
        or model % layer.num_heads
        or quantized(layer.kv_dtype)
    ):
        return False
    asked = Asked() if wide == narrow == 256 else Asked(wide, narrow)
    if choose(layer, sm, asked, newest=True).version != 4 or not prefill_backend(layer, sm):
        return False
    name = "FLASHINFER_MLA_SPARSE" if backend == "FLASH_ATTN_MLA_SPARSE_FA4" else backend
    ranges = _THRESHOLDS.get((wide, name, model // layer.num_heads))
    if ranges is None:
        return False
    contexts = tuple(keys - queries for queries, keys in zip(step.each_q, step.each_k, strict=True))
    alone, beside = ranges
    asked_of = beside if any(contexts) and beside is not None else alone
    least = next((queries for keys, queries in asked_of if step.seqlen_k <= keys), None)
    if least is None or step.seqlen_q < least:
        return False
    return _masks_fit(step, contexts, layer.block_size or 64)


def _masks_fit(step: Step, contexts: tuple[int, ...], page: int) -> bool:
    """Whether a bit for each query and key, of the new keys or of a chunk, fits the workspace."""
    longest = max((max(one.keys) for one in context_chunks(contexts, page)), default=0)
    tile = 128 if step.seqlen_q <= 128 else 256
    rows = ceil_div(step.seqlen_q, tile) * tile
    words = ceil_div(ceil_div(max(step.seqlen_q, longest), 32), 4) * 4
    return step.batch * rows * words <= _ROOM
