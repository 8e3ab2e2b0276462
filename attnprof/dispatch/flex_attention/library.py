"""FlexAttention as the registry knows it."""

from __future__ import annotations

from attnprof.dispatch.library import LibraryOfVersions


class FlexAttention(LibraryOfVersions):
    """The decoding kernel that Inductor makes of torch.nn.attention.flex_attention."""

    folder = "attnprof.dispatch.flex_attention"
    entries = ("fwd",)
    modelled = "its decoding kernel is modelled"


LIBRARY = FlexAttention()
