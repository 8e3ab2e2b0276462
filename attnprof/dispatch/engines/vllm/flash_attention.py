"""Which FlashAttention vLLM's FLASH_ATTN backend takes: 2, 3 or 4.

Source: vllm/v1/attention/backends/fa_utils.py (0.20, 0.33), vllm/attention/utils/fa_utils.py (0.10), and
vllm/vllm_flash_attn/flash_attn_interface.py for what a GPU supports. Agrees with every version that
FlashAttentionImpl of the released wheels settled on (tests/data/golden, vllm_backends).
"""

from __future__ import annotations

from dataclasses import dataclass

from attnprof.dispatch.engines.layer import Layer, Sm

HD256_PAGE = 128  # keys of a tile of FA4's kernel for head dim 256, hence of a page


@dataclass(frozen=True, slots=True)
class Version:
    """The version taken, None where the GPU runs none, and why."""

    version: int | None
    why: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What the caller of ``get_flash_attn_version`` passes of the layer; the rest it reads by itself."""

    head_dim: int | None = None
    head_dim_v: int | None = None
    alibi: bool = False
    sinks: bool = False
    softcap: bool = False
    block_size: int | None = None
    knows_hd256: bool = False


def supported(version: int, sm: Sm) -> bool:
    """Whether the wheel has kernels of this version for the GPU: 2 from SM 8.0, 3 on 9, 4 on 9, 10 and 11."""
    return {2: sm >= (8, 0), 3: sm[0] == 9, 4: sm[0] in (9, 10, 11)}[version]


def of_layer(layer: Layer, sm: Sm, *, newest: bool) -> Version:
    """What FlashAttentionImpl settles on. ``newest``: the rules of 0.33, else those of 0.20."""
    if newest:
        asked = Asked(
            layer.head_dim, alibi=layer.alibi, sinks=layer.sinks, softcap=layer.softcap > 0, knows_hd256=True
        )
        return choose(layer, sm, asked, newest=True)
    found = choose(layer, sm, Asked(layer.head_dim, alibi=layer.alibi), newest=False)
    if found.version == 3 and layer.head_dim > 256:
        return Version(4, f"FA3 has no kernels for head dim {layer.head_dim}")
    return found


def choose(layer: Layer, sm: Sm, asked: Asked, *, newest: bool) -> Version:
    """``get_flash_attn_version``, condition by condition, in its order."""
    first = {9: 3, 10: 4}.get(sm[0], 2)
    version, why = first, f"what vLLM takes on SM {sm[0]}.{sm[1]}"
    if layer.flash_attn_version is not None:
        version, why = layer.flash_attn_version, "asked for by attention_config.flash_attn_version"
    if sm[0] >= 10 and version == 3:
        version = 4 if supported(4, sm) else 2
        why = "FA3 has no kernels for Blackwell"
    if asked.alibi and version in (3, 4):
        version, why = 2, f"FA{version} has no ALiBi"
    if version == 3 and sm[0] == 9 and (reason := _past_fa3(asked, newest)):
        version, why = 4, reason
    if layer.batch_invariant and version == 4:
        version, why = 2, "FA4 schedules by the shape of the batch, which the batch-invariant mode forbids"
    if newest and version == 4 and _hd256(asked, sm) and (reason := _not_hd256(layer, asked)):
        version, why = 2, reason
    if version == 4 and sm[0] >= 10 and _past_tensor_memory(asked, newest):
        version, why = 2, f"head dim {asked.head_dim} does not fit FA4's tensor memory on Blackwell"
    if not supported(version, sm):
        return no_kernels(version, sm)
    return Version(version, why)


def no_kernels(version: int, sm: Sm) -> Version:
    """That the GPU runs no kernel of the version taken."""
    return Version(None, f"FA{version} has no kernels for SM {sm[0]}.{sm[1]}")


def _past_fa3(asked: Asked, newest: bool) -> str:
    """What FA3 cannot do on Hopper and FA4 can."""
    if newest and (asked.head_dim or 0) > 256:
        return f"FA3 has no kernels for head dim {asked.head_dim}"
    if asked.sinks and asked.head_dim_v is not None and asked.head_dim != asked.head_dim_v:
        return "FA3 has no sinks where V has another head dim"
    return ""


def _hd256(asked: Asked, sm: Sm) -> bool:
    return asked.head_dim == 256 and asked.head_dim_v in (None, 256) and sm[0] in (10, 11)


def _not_hd256(layer: Layer, asked: Asked) -> str:
    """Why FA4's own kernel for head dim 256 cannot be taken; "" where it can."""
    from attnprof.dispatch.engines.vllm.conditions import quantized

    unlike = {
        "the caller does not know": not asked.knows_hd256,
        "has no attention sinks": asked.sinks,
        "has no softcap": asked.softcap or layer.softcap > 0,
        f"has no {layer.kv_dtype} KV cache": quantized(layer.kv_dtype),
        f"takes no pages of {asked.block_size}": (asked.block_size or 0) % HD256_PAGE != 0,
        "has no bidirectional prefix": layer.mm_prefix,
    }
    reason = next((text for text, found in unlike.items() if found), "")
    return f"FA4's kernel for head dim 256 {reason}" if reason else ""


def _past_tensor_memory(asked: Asked, newest: bool) -> bool:
    head_dim, head_dim_v = asked.head_dim or 0, asked.head_dim_v
    if head_dim <= 128:
        return False
    if not newest:
        return head_dim != 192
    return not ((head_dim == 256 and head_dim_v in (None, 256)) or (head_dim == 192 and head_dim_v == 128))
