"""Which trtllm-gen kernels there are, and what their metadata states.

Source: ``flashInferMetaInfo.h`` of flashinfer-cubin 0.6.13, the last that was published as a package, and of
0.6.8.post1: paged keys, and of the former Q, K and V of their own and sparse MLA, no sage attention or
skipped softmax, of the dtypes below. A test holds every row to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

DTYPES = {  # of queries and, behind a slash, of a cache whose keys are made another to be attended
    "bf16": "QkvBfloat16OBfloat16", "fp16": "QkvFp16OFp16", "fp8": "QkvE4m3OBfloat16",
    "bf16/fp8": "QBfloat16KvE4m3OBfloat16", "fp16/fp8": "QFp16KvE4m3OFp16", "fp8/nvfp4": "QE4m3KvE2m1OE4m3",
}  # fmt: skip
NVFP4 = "fp8/nvfp4"
DENSE, CAUSAL, SLIDING = 0, 1, 2
DYNAMIC_PAGE = 128  # from this page size on, one kernel takes every page size
_MASKS = ("Dense", "Causal", "SlidingOrChunkedCausal")
_FIXED_PAGES = (16, 32, 64)
_MLA_DIMS = ((576, 512), (320, 256))
_SEPARATE_DIMS = ((128, 128), (192, 128), (256, 256))


class Kind(Enum):
    """What a kernel is for; its value ends the name. Upstream numbers them 0, 2 and 3."""

    CONTEXT = "Context"
    SWAPS = "SwapsAbForGen"
    KEEPS = "KeepsAbForGen"

    @property
    def number(self) -> int:
        return {Kind.CONTEXT: 0, Kind.SWAPS: 2, Kind.KEEPS: 3}[self]


class Sparse(Enum):
    """Whether MLA's keys are picked, and whether each query says how many; the value is upstream's number."""

    NO = 0
    STATIC = 1
    DYNAMIC = 2

    @property
    def text(self) -> str:
        return ("", "StaticTokenSparse", "DynamicTokenSparse")[self.value]


class Mode(Enum):
    """Where the thread blocks that share the keys of one query tile meet; the value is upstream's number."""

    NONE = 0
    GLOBAL = 1
    REDUCTION_KERNEL = 2
    CLUSTER = 3

    @property
    def text(self) -> str:
        return ("", "MultiCtasKv", "MultiCtasKvGmemSep", "MultiCtasKvCga")[self.value]


_SPARSE = {Sparse.STATIC: (576, 512), Sparse.DYNAMIC: (512, 512)}  # the dims of calls that pick keys


@dataclass(frozen=True, slots=True)
class Traits:
    """What a kernel is looked up by. ``page`` is DYNAMIC_PAGE with ``dynamic`` where it takes any.

    ``separate``: Q, K and V are tensors of their own, without pages (``page`` 0).  ``sparse``: the keys of
    each query are picked (``page`` 1).
    """

    dtype: str
    head_dim: int
    head_dim_v: int
    head_dim_per_cta_v: int
    kind: Kind
    mode: Mode
    mask: int
    page: int
    dynamic: bool
    persistent: bool
    tile_q: int
    tile_kv: int
    two_cta: bool
    separate: bool = False
    sparse: Sparse = Sparse.NO

    @property
    def transforms(self) -> bool:
        """Whether the cache is of another dtype than the queries."""
        return "/" in self.dtype

    @property
    def mla(self) -> bool:
        return self.sparse is not Sparse.NO or (self.head_dim, self.head_dim_v) in _MLA_DIMS

    @property
    def step_q(self) -> int:
        """Query rows that a thread block takes."""
        return 256 if self.kind is Kind.CONTEXT and self.head_dim_v <= 128 else self.tile_q

    @property
    def step_kv(self) -> int:
        """Keys of a step of its loop."""
        one_tile = self.kind is Kind.CONTEXT or (self.kind is Kind.KEEPS and self.head_dim > 128)
        one_tile = one_tile or self.sparse is not Sparse.NO or self.transforms
        return self.tile_kv if one_tile else 2 * self.tile_kv

    @property
    def threads(self) -> int:
        wide = self.head_dim_v > 128 and self.kind is not Kind.SWAPS
        return 384 if wide and self.sparse is Sparse.NO and not self.transforms else 512

    @property
    def groups_tokens(self) -> bool:
        """Whether a thread block takes several query tokens of a KV head's group."""
        return self.kind is not Kind.CONTEXT and not self.mla and not self.transforms

    def name(self, sm103: bool) -> str:
        """As the kernel is called; SM 10.3 has context kernels of its own, and all over an NVFP4 cache."""
        dims = f"H{self.head_dim}"
        if self.head_dim != self.head_dim_v:
            dims = f"HQk{self.head_dim}HV{self.head_dim_v}"
        if self.head_dim_per_cta_v != self.head_dim_v:
            dims += f"HVPerCta{self.head_dim_per_cta_v}"
        own = self.kind is Kind.CONTEXT or self.dtype == NVFP4
        arch = "103a" if sm103 and own else "100a" if self.dtype == NVFP4 else "100f"
        page = "" if self.separate else "Paged" if self.dynamic else f"P{self.page}"
        layout = "SeparateQkv" if self.separate else "PagedKv"
        single = self.transforms and self.kind is Kind.SWAPS and self.mask == CAUSAL
        mask = _MASKS[DENSE if single else self.mask] + self.sparse.text  # of one query token both are alike
        return (
            f"fmhaSm{arch}Kernel_{DTYPES[self.dtype]}{dims}{layout}{mask}{page}{self.mode.text}"
            f"VarSeqQ{self.tile_q}Kv{self.tile_kv}{'Persistent' if self.persistent else 'Static'}"
            f"{'2Cta' if self.two_cta else ''}{self.kind.value}"
        )


def exists(traits: Traits, *, oldest: bool = False) -> bool:
    """Whether flashinfer-cubin 0.6.13 holds such a kernel; ``oldest``: whether 0.6.8.post1 does."""
    dims = (traits.head_dim, traits.head_dim_v)
    if oldest and (traits.dynamic or traits.head_dim in (80, 512)):
        return False
    if traits.persistent and traits.mode is not Mode.NONE:
        return False
    if traits.two_cta and (traits.kind is not Kind.KEEPS or traits.head_dim_per_cta_v != 256):
        return False
    if traits.transforms:
        return not oldest and _of_transformed(traits)
    if traits.separate:
        return not oldest and _of_separate(traits)
    if traits.sparse is not Sparse.NO:
        return not oldest and dims == _SPARSE[traits.sparse] and traits.page == 1 and _of_mla(traits, oldest)
    if dims == (576, 512):
        return _paged(traits) and _of_mla(traits, oldest)
    if traits.two_cta or traits.tile_kv != 128:
        return False
    if dims == (320, 256):
        known = traits.dtype != "fp16" and traits.kind is not Kind.CONTEXT and traits.mask != CAUSAL
        return known and not traits.dynamic and _paged(traits) and _tiled(traits, traits.head_dim_v)
    if dims[0] != dims[1] or not _paged(traits):
        return False
    if traits.kind is Kind.CONTEXT:
        return _of_context(traits)
    if traits.mask == DENSE or dims[0] not in (64, 128, 256, 512):
        return False
    if dims[0] == 512:
        return not traits.dynamic and _of_wide_heads(traits)
    return _tiled(traits, dims[1])


def _paged(traits: Traits) -> bool:
    return traits.dynamic or traits.page in _FIXED_PAGES


def _tiled(traits: Traits, head_dim_per_cta_v: int) -> bool:
    tiles = (8, 16, 32) if traits.kind is Kind.SWAPS else (64, 128)
    whole = traits.head_dim_per_cta_v == head_dim_per_cta_v
    return whole and traits.mode is not Mode.REDUCTION_KERNEL and traits.tile_q in tiles


def _of_context(traits: Traits) -> bool:
    if traits.tile_q != 128 or traits.mode is not Mode.NONE:
        return False
    if traits.head_dim == 512:
        return not traits.dynamic and traits.mask != SLIDING and traits.head_dim_per_cta_v == 256
    if traits.head_dim == 80:
        return not traits.dynamic and traits.dtype != "fp8" and traits.head_dim_per_cta_v == 80
    return traits.head_dim in (64, 128, 256) and traits.head_dim_per_cta_v == traits.head_dim_v


def _of_separate(traits: Traits) -> bool:
    dims = (traits.head_dim, traits.head_dim_v)
    whole = (traits.head_dim_per_cta_v, traits.page, traits.dynamic) == (dims[1], 0, False)
    tiles = (traits.tile_q, traits.tile_kv, traits.two_cta) == (128, 128, False)
    if traits.kind is not Kind.CONTEXT or traits.mode is not Mode.NONE or not whole or not tiles:
        return False
    if traits.dtype == "fp16":
        return dims == (128, 128) and traits.mask == DENSE
    return dims in _SEPARATE_DIMS and traits.mask != SLIDING


def _of_transformed(traits: Traits) -> bool:
    plain = (traits.separate, traits.sparse, traits.two_cta, traits.tile_kv) == (False, Sparse.NO, False, 128)
    dims = (traits.head_dim, traits.head_dim_per_cta_v)
    if not plain or dims != (traits.head_dim_v, traits.head_dim_v) or not _paged(traits):
        return False
    if traits.kind is Kind.CONTEXT:
        wide = traits.head_dim in (64, 128, 256) and traits.mode is Mode.NONE
        return wide and traits.dtype == NVFP4 and traits.tile_q == 128
    if traits.kind is Kind.KEEPS or traits.mask == DENSE or traits.tile_q not in (8, 16):
        return False
    widest = traits.head_dim == 512 and traits.dtype != NVFP4 and not traits.dynamic
    return traits.mode is not Mode.REDUCTION_KERNEL and (traits.head_dim in (64, 128, 256) or widest)


def _of_wide_heads(traits: Traits) -> bool:
    if traits.kind is Kind.KEEPS:
        meets = traits.mode in (Mode.NONE, Mode.REDUCTION_KERNEL)
        return meets and traits.head_dim_per_cta_v == 256 and traits.tile_q in (64, 128)
    return _tiled(traits, 512) and not (traits.mode is Mode.CLUSTER and traits.tile_q == 32)


def _of_mla(traits: Traits, oldest: bool) -> bool:
    known = traits.dtype != "fp16" and traits.mask == DENSE and traits.kind is not Kind.CONTEXT
    if not known or traits.dynamic or traits.head_dim_per_cta_v not in (128, 256, 512):
        return False
    if traits.kind is Kind.KEEPS:
        meets = traits.mode in (Mode.NONE, Mode.REDUCTION_KERNEL)
        return meets and traits.tile_q == 64 and traits.tile_kv == 128
    tiles_kv = (64, 128) if traits.sparse is Sparse.NO else (128,)
    small = traits.tile_kv in tiles_kv and traits.tile_q in (8, 16, 32)
    wide = traits.mode is Mode.CLUSTER and traits.head_dim_per_cta_v == 512 and traits.tile_q == 32
    lacking = wide and not oldest
    return small and traits.mode is not Mode.REDUCTION_KERNEL and not lacking
