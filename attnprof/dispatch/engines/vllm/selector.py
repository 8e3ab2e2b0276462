"""vLLM's choice of an attention backend on NVIDIA GPUs: its list for the GPU, and the first that is valid.

Source: vllm/platforms/cuda.py of the wheels, _get_backend_priorities and get_attn_backend_cls. Agrees with
every choice and every reason that the wheels' own selectors gave (tests/data/golden, vllm_backends).
"""

from __future__ import annotations

from attnprof.dispatch.engines.layer import Choice, Layer, RuledOut, Sm
from attnprof.dispatch.engines.vllm import backends as own
from attnprof.dispatch.engines.vllm import mla_backends as mla
from attnprof.dispatch.engines.vllm.conditions import Backend, quantized, reasons
from attnprof.errors import UsageError

_FEW_HEADS = 16


def priorities(layer: Layer, sm: Sm, *, newest: bool) -> tuple[Backend, ...]:
    """The list of 0.33 (``newest``) or 0.20, best first."""
    if newest:
        return _mla_list(layer, sm) if layer.mla else _list(layer, sm)
    return _old_mla_list(layer, sm) if layer.mla else _old_list(sm)


def _list(layer: Layer, sm: Sm) -> tuple[Backend, ...]:
    rest = (own.TRITON_ATTN, own.FLEX_ATTENTION, own.TURBOQUANT)
    if sm[0] == 10 and not layer.non_causal:
        first = (own.TRITON_FLASHINFER,) if layer.mm_prefix else ()
        return (*first, own.FLASHINFER, own.FLASH_ATTN, *rest)
    first = (own.TRITON_FLASH_ATTN,) if sm[0] == 9 and layer.mm_prefix else ()
    return (*first, own.FLASH_ATTN, own.FLASHINFER, *rest)


def _mla_list(layer: Layer, sm: Sm) -> tuple[Backend, ...]:
    if sm[0] == 10:
        few = layer.num_heads <= _FEW_HEADS and not quantized(layer.kv_dtype)
        sparse = [mla.FLASHINFER_MLA_SPARSE, mla.FLASHMLA_SPARSE]
        if few:
            sparse.insert(0, mla.FLASH_ATTN_MLA_SPARSE_FA4)
        elif not quantized(layer.kv_dtype):
            sparse.reverse()
        return (
            mla.FLASHINFER_MLA, mla.TOKENSPEED_MLA, mla.CUTLASS_MLA, mla.FLASH_ATTN_MLA, mla.FLASHMLA,
            mla.TRITON_MLA, *sparse,
        )  # fmt: skip
    if sm[0] == 12:
        return (mla.TRITON_MLA, mla.FLASHINFER_MLA_SPARSE_SM120)
    tail = [mla.FLASH_ATTN_MLA_SPARSE, mla.FLASHMLA_SPARSE]
    tail.insert(0 if layer.head_dim == 512 else 2, mla.FLASHINFER_MLA_SPARSE_SM90)
    return (mla.FLASH_ATTN_MLA, mla.FLASHMLA, mla.FLASHINFER_MLA, mla.TRITON_MLA, *tail)


def _old_list(sm: Sm) -> tuple[Backend, ...]:
    rest = (own.OLD_TRITON_ATTN, own.OLD_FLEX_ATTENTION, own.TURBOQUANT)
    pair = (own.OLD_FLASHINFER, own.OLD_FLASH_ATTN)
    return (*(pair if sm[0] == 10 else pair[::-1]), *rest)


def _old_mla_list(layer: Layer, sm: Sm) -> tuple[Backend, ...]:
    if sm[0] != 10:
        return (
            mla.OLD_FLASH_ATTN_MLA, mla.OLD_FLASHMLA, mla.OLD_FLASHINFER_MLA, mla.OLD_TRITON_MLA,
            mla.OLD_FLASHMLA_SPARSE,
        )  # fmt: skip
    sparse = (mla.OLD_FLASHINFER_MLA_SPARSE, mla.OLD_FLASHMLA_SPARSE)
    narrow = quantized(layer.kv_dtype) and not layer.kv_dtype.startswith("turboquant")
    flashinfer_first = narrow or layer.num_heads <= _FEW_HEADS
    return (
        mla.OLD_FLASHINFER_MLA, mla.OLD_CUTLASS_MLA, mla.OLD_FLASH_ATTN_MLA, mla.OLD_FLASHMLA,
        mla.OLD_TRITON_MLA, *(sparse if flashinfer_first else sparse[::-1]),
    )  # fmt: skip


def choose(layer: Layer, sm: Sm, *, newest: bool) -> Choice:
    """The first valid backend of the list, or the one that is forced.

    Raises UsageError for a forced backend that is not in the list.
    """
    listed = priorities(layer, sm, newest=newest)
    return first_valid(listed, layer, sm, f"SM {sm[0]}.{sm[1]}", checks_window=newest)


def first_valid(
    listed: tuple[Backend, ...], layer: Layer, sm: Sm, where: str, *, checks_window: bool
) -> Choice:
    """The same of a list that stands, on the GPU ``where``."""
    found = {each.name: reasons(each, layer, sm, checks_window=checks_window) for each in listed}
    if layer.backend is not None:
        if layer.backend not in found:
            raise UsageError(
                f"vLLM's backend {layer.backend} is not modelled on {where}",
                hint=f"in its list there: {', '.join(found)}",
            )
        taken = None if found[layer.backend] else layer.backend
        why = "the user asks for it" if taken else f"the user asks for {layer.backend}, which is not valid"
    else:
        taken = next((name for name, why_not in found.items() if not why_not), None)
        place = list(found).index(taken) + 1 if taken else 0
        why = f"number {place} of vLLM's list for {where}, the first that is valid"
        why = why if taken else f"none of vLLM's list for {where} is valid"
    others = tuple(RuledOut(name, why_not) for name, why_not in found.items() if name != taken)
    return Choice(taken, why, others)
