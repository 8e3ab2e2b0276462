"""A call as trtllm-gen's launcher hands it on, and its refusal."""

from __future__ import annotations

from dataclasses import dataclass

from attnprof.dispatch.flashinfer.trtllm_gen_kernels import Sparse, Traits, exists


@dataclass(frozen=True, slots=True)
class Ask:
    """A call as the launcher hands it on. ``window`` is in keys, None for none; ``mask`` as the caller's.

    ``active_clusters``: how many clusters of the kernel the GPU holds at once, None where nobody asked it.
    ``separate``: prefill over Q, K and V without pages.  ``topk``: keys that sparse MLA picks, 0 for none.
    """

    dtype: str
    context: bool
    batch: int
    seqlen_q: int
    seqlen_k: int
    num_heads: int
    num_heads_k: int
    head_dim: int
    head_dim_v: int
    page: int
    window: int | None
    causal: bool
    num_sms: int
    sm103: bool = False
    active_clusters: int | None = None
    newer: bool = True  # the rules of 0.7.2, else those of 0.6.13
    oldest: bool = False  # those of 0.6.8, which has no pages but its kernels' and no latents of 320
    separate: bool = False
    topk: int = 0
    clamps: bool = True  # those from 0.7.2.post1 on: no more than a cluster shares keys that are few
    window_first: bool = False  # those of 0.7.4: a window that binds is known when tiles are weighed

    @property
    def sparse(self) -> Sparse:
        """Rows of 512 say how many keys each query has: the launcher asks for that where they are picked."""
        return Sparse.NO if not self.topk else Sparse.DYNAMIC if self.head_dim == 512 else Sparse.STATIC

    @property
    def keys(self) -> int:
        """Keys that a query attends to, at most."""
        return min(self.seqlen_k, self.topk) if self.topk else self.seqlen_k

    @property
    def group(self) -> int:
        return self.num_heads // self.num_heads_k

    @property
    def mla(self) -> bool:
        return self.latent and not (self.oldest and self.head_dim == 320)

    @property
    def latent(self) -> bool:
        """Whether it decodes latent attention; 0.6.8 picks dim 320 as it does grouped heads."""
        dims = (self.head_dim, self.head_dim_v)
        return not self.context and (dims in ((576, 512), (320, 256)) or self.sparse is Sparse.DYNAMIC)

    def lacks(self, traits: Traits) -> bool:
        """Whether the version's table is known to have no such kernel."""
        return not self.newer and not exists(traits, oldest=self.oldest)

    @property
    def slides(self) -> bool:
        """Whether some key lies outside of the window."""
        return self.window is not None and self.seqlen_k > self.window and not self.topk

    @property
    def least_latency(self) -> bool:
        """Upstream's mode for one sequence of DeepSeek-V3."""
        dims = (self.head_dim, self.head_dim_v) == (576, 512)
        return self.batch == 1 and 1 <= self.seqlen_q <= 16 and dims


class MissingKernelError(Exception):
    """No kernel has these traits; the text is upstream's."""
