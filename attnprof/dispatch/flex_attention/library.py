"""FlexAttention as the registry knows it."""

from __future__ import annotations

from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.library import LibraryOfVersions


class FlexAttention(LibraryOfVersions):
    """The decoding kernel that Inductor makes of torch.nn.attention.flex_attention; steps of vLLM's."""

    folder = "attnprof.dispatch.flex_attention"
    kernels = ("flexattention",)
    entries = ("fwd", "batch_paged")
    modelled = "its decoding kernel is modelled"

    def explain(self, seen: Observed, gpu: GpuFacts) -> ReadBack | None:
        from attnprof.dispatch.flex_attention.read_back import read_back

        return read_back(seen, gpu)


LIBRARY = FlexAttention()
