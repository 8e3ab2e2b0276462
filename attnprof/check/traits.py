"""What a kernel's name and grid say of the model whose call it is, and of the call's sizes."""

from __future__ import annotations

from dataclasses import dataclass

from attnprof.check.observed_shape import ObservedShape
from attnprof.dispatch.explanation import ReadBack
from attnprof.dispatch.libraries import template_fields, window_may_tell
from attnprof.model import KernelLaunch

Fixed = tuple[tuple[str, object], ...]
_KIND = ("dtype", "head_dim", "head_dim_v", "Is_causal", "Has_softcap", "Varlen", "PagedKVNonTMA", "AppendKV")
_PLANNED = "planned before it"
_LEAVES_SMS_FREE = "flash-attn-3"
_SPELLED_OUT = "triton"  # whose programs write out their grids, the same for a layer's every query


@dataclass(frozen=True, slots=True)
class Traits:
    """What a model does not change from call to call, as the kernel's name says it, and the sizes.

    ``fixed`` are template arguments of a layer, ``form`` those that decide what a grid means, ``kind`` those
    that no size decides, and whether a kernel before the call plans it.  ``rows``: query blocks, 0 where the
    grid may mean otherwise.  ``shows``: the grid follows from the call, not from the GPU.  ``requests``: no
    window shows, as of a server's batches, whose longest sequence may leave, so that keys do not only grow.
    ``folds``: the query heads of a KV head may count as queries, which they never do in a causal kernel.
    ``latent``: queries against V of their own, as MLA decodes, whose prompts have other head dims.
    """

    library: str
    dtype: str | None
    local: bool
    fixed: Fixed
    kind: Fixed
    form: tuple[object, ...]
    rows: int
    batch_heads: int
    shows: bool
    requests: bool
    folds: bool
    role: str
    words: str
    launches: tuple[KernelLaunch, ...]
    latent: bool

    @property
    def planned(self) -> bool:
        """Whether a kernel of its own plans the call before it."""
        return (_PLANNED, True) in self.kind

    def window_tells(self, other: Traits) -> bool:
        """Whether a window alone may tell it from ``other`` in one step, though no name says so."""
        return self.library == other.library and window_may_tell(self.launches, other.launches)

    @classmethod
    def of(cls, shape: ObservedShape, back: ReadBack | None = None, num_sms: int = 0) -> Traits:
        """``back``: what its launches say of the call.  ``num_sms``: 0 where they are not stated."""
        launch, main = shape.launches[0], shape.main
        fields = dict(template_fields(launch.kernel) or ())
        dtype = fields.get("dtype") or dict(main.stated).get("dtype")
        fixed = tuple(
            (name, fields[name])
            for name in ("dtype", "head_dim", "Has_alibi", "Is_softcap", "Has_softcap", "Is_even_K")
            if name in fields
        )
        kind = tuple((name, fields[name]) for name in _KIND if name in fields)
        kind = (*kind, (_PLANNED, bool(shape.before)))
        local = bool(fields.get("Is_local"))
        split = bool(fields.get("Split"))
        adds = not fields and len(shape.launches) > 1  # of a kernel whose name does not say that it splits
        form = (main.library, main.family, split or adds, local, *map(fields.get, ("Is_causal", "block_m")))
        heads = launch.grid[2] if split else launch.grid[1] * launch.grid[2]
        combined = len(shape.launches) > 1 and shape.launches[1].grid[0] > 1
        own = main.family in ("fwd", "fwd_splitkv")
        shows = own or launch.grid[1] * launch.grid[2] > 1 or combined
        if num_sms and main.library != _LEAVES_SMS_FREE:  # whose caller may take some of the SMs away
            shows = shows or launch.grid[0] not in (num_sms, num_sms // 2 * 2)
        rows = launch.grid[0] if own or main.library == _LEAVES_SMS_FREE else 0
        if not own and back is not None and main.library != _LEAVES_SMS_FREE:
            heads = _batch_heads(back)  # what a grid of others means is theirs
        requests = fields.get("Varlen") or (main.family == "fwd_splitkv" and not split)
        # Before 2.3.5 a causal call counts as local, too; Has_alibi came with 2.4.0.
        requests = requests or (local and "Is_even_K" in fields and "Has_alibi" not in fields)
        folds = not fields.get("Is_causal") and main.library != _SPELLED_OUT
        said = f"{main.kernel} grid {'x'.join(map(str, launch.grid))}"
        splits = shape.num_splits
        words = f"{said}, {splits} splits" if splits and splits > 1 else said
        return cls(
            main.library, None if dtype is None else str(dtype), local, fixed, kind, form, rows,
            heads, shows, bool(requests), folds, main.role, words, shape.launches,
            bool(fields.get("HasQv")),
        )  # fmt: skip


def _batch_heads(back: ReadBack) -> int:
    """Sequences x heads of all explanations that tell them; 0 where none does, or they differ."""
    told = {
        one.batch_heads or (one.batch or 0) * (one.heads or 0)
        for one in back.explanations
        if one.batch_heads or (one.batch and one.heads)
    }
    return told.pop() if len(told) == 1 else 0
