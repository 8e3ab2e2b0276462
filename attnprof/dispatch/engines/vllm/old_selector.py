"""The selector of vLLM 0.10.2's V1 engine: a chain of conditions, before there was a list.

Source: vllm/platforms/cuda.py get_attn_backend_cls, vllm/attention/utils/fa_utils.py,
vllm/vllm_flash_attn/flash_attn_interface.py and vllm/utils/flashinfer.py of the wheel. Agrees with every
choice that the wheel's own selector made (tests/data/golden, vllm_backends_0.10.2). V0, which that version
falls back to before SM 8.0 and for some KV dtypes, is not modelled.
"""

from __future__ import annotations

from attnprof.dispatch.engines.layer import Choice, Layer, RuledOut, Sm
from attnprof.dispatch.engines.vllm.flash_attention import Version
from attnprof.errors import UsageError

DEFAULT_BLOCK = 16
_FLASH_HEAD_DIMS = (32, 64, 96, 128, 160, 192, 224, 256)
_FLASHINFER_HEAD_DIMS = (64, 128, 256)
_16_BITS = ("bf16", "fp16")
_NAMES = {  # the class that the chain ends in -> the backend's name
    "FlashInferMLA": "FLASHINFER_MLA", "CutlassMLA": "CUTLASS_MLA", "FlashMLA": "FLASHMLA",
    "FlashAttnMLA": "FLASH_ATTN_MLA", "TritonMLA": "TRITON_MLA", "FlashInfer": "FLASHINFER",
    "FlashAttention": "FLASH_ATTN", "TritonAttention": "TRITON_ATTN", "FlexAttention": "FLEX_ATTENTION",
}  # fmt: skip
CLASSES = {name: each for each, name in _NAMES.items()}


def choose(layer: Layer, sm: Sm) -> Choice:
    """The backend that the chain ends in. Raises UsageError for what this version has not."""
    if layer.batch_invariant:
        raise UsageError(
            "vLLM 0.10.2 has no batch-invariant mode", hint="give --engine-version 0.20.0 or newer"
        )
    if layer.backend is not None:
        if layer.backend not in CLASSES:
            raise UsageError(
                f"vLLM 0.10.2's backend {layer.backend} is not modelled",
                hint=f"known are {', '.join(CLASSES)}",
            )
        if layer.backend == "FLASHMLA" and layer.mla and layer.block_size != 64:
            why = "FLASHMLA, which the user asks for, needs pages of 64: the chain goes on without MLA"
            return Choice("FLEX_ATTENTION", why, (RuledOut("FLASHMLA", ("block_size not supported",)),))
        return Choice(layer.backend, "the user asks for it: this version checks nothing more", ())
    return _mla(layer, sm) if layer.mla else _plain(layer, sm)


def _mla(layer: Layer, sm: Sm) -> Choice:
    page, exact = layer.block_size or DEFAULT_BLOCK, sm == (10, 0)
    chain = (
        ("CUTLASS_MLA", () if exact and page == 128 else _not("SM 10.0 with pages of 128")),
        ("FLASHINFER_MLA", () if exact and page in (32, 64) else _not("SM 10.0 with pages of 32 or 64")),
        ("FLASHMLA", () if sm[0] == 9 and page == 64 else _not("SM 9.x with pages of 64")),
        ("FLASH_ATTN_MLA", () if sm[0] == 9 else _not("SM 9.x")),
        ("TRITON_MLA", ()),
    )
    return _first(chain)


def _plain(layer: Layer, sm: Sm) -> Choice:
    if sm < (8, 0):
        return _first((("FLASH_ATTN", _not("SM 8.0 or newer")), ("FLEX_ATTENTION", ())))
    short = layer.dtype in _16_BITS
    flashinfer = [
        *([] if sm == (10, 0) else _not("SM 10.0")),
        *([] if layer.head_dim in _FLASHINFER_HEAD_DIMS else ["head_size not supported"]),
        *([] if short else ["dtype not supported"]),
    ]
    flash = [
        *([] if layer.head_dim in _FLASH_HEAD_DIMS else ["head_size not supported"]),
        *([] if short else ["dtype not supported"]),
    ]
    triton = layer.sinks and sm != (9, 0)
    chain = (
        ("FLASHINFER", tuple(flashinfer)),
        ("TRITON_ATTN", () if triton else ("taken for attention sinks outside SM 9.0 alone",)),
        ("FLASH_ATTN", tuple(flash)),
        ("FLEX_ATTENTION", ()),
    )
    return _first(chain)


def _not(condition: str) -> tuple[str, ...]:
    return (f"taken on {condition} alone",)


def _first(chain: tuple[tuple[str, tuple[str, ...]], ...]) -> Choice:
    taken = next(name for name, reasons in chain if not reasons)
    others = tuple(RuledOut(name, reasons) for name, reasons in chain if name != taken)
    return Choice(taken, "the first of vLLM's conditions that holds", others)


def flash_attn_version(layer: Layer, sm: Sm) -> Version:
    """``get_flash_attn_version`` of 0.10."""
    version, why = (3 if sm[0] == 9 else 2), f"what vLLM takes on SM {sm[0]}.{sm[1]}"
    if layer.flash_attn_version is not None:
        version, why = layer.flash_attn_version, "asked for by VLLM_FLASH_ATTN_VERSION"
        if version not in (2, 3):
            return Version(None, "VLLM_FLASH_ATTN_VERSION is 2 or 3")
    if sm[0] == 10 and version == 3:
        version, why = 2, "FA3 has no kernels for Blackwell"
    if layer.alibi and version == 3:
        version, why = 2, "FA3 has no ALiBi"
    runs = sm >= (8, 0) if version == 2 else (8, 0) <= sm < (10, 0) and sm not in ((8, 6), (8, 9))
    return (
        Version(version, why) if runs else Version(None, f"FA{version} has no kernels for SM {sm[0]}.{sm[1]}")
    )
