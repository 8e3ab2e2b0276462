"""SGLang as an engine: the backend that a server settles on, and the calls that backend makes.

Source: the wheel's sglang/srt: arg_groups, layers/attention, models/deepseek_common. Choices agree with the
released resolution, run for a GPU (tests/data/golden, sglang_servers and sglang_backends), how prompts of MLA
are attended with the released handlers (sglang_methods); what is passed is read.
"""

from __future__ import annotations

from attnprof.dispatch.engines.layer import Choice, Layer, Reached, Step
from attnprof.dispatch.engines.sglang import selector
from attnprof.dispatch.engines.sglang.mha_calls import reach_mha
from attnprof.dispatch.engines.sglang.mla_calls import reach_mla
from attnprof.dispatch.engines.sglang.sparse_calls import reach_sparse
from attnprof.errors import UsageError
from attnprof.model import Gpu

NAME = "sglang"
DEFAULT_VERSION = "0.5.23"
VERSIONS = (DEFAULT_VERSION,)
BACKENDS = selector.BACKENDS


def version_of(name: str | None) -> str:
    """The version. Raises UsageError for one that was not read: it is not guessed."""
    if name not in (None, *VERSIONS):
        raise UsageError(
            f"SGLang {name} is not modelled: its choice was read and recorded for {', '.join(VERSIONS)}",
            hint=f"give --engine-version {DEFAULT_VERSION}",
        )
    return name or DEFAULT_VERSION


def choose(layer: Layer, gpu: Gpu, version: str) -> Choice:
    """The backend, by GPU and kind of attention, and why each other one is not."""
    return selector.choose(layer, gpu)


def reach(choice: Choice, layer: Layer, step: Step, gpu: Gpu, version: str) -> Reached:
    """The calls that the backend taken makes."""
    sm = (gpu.sm_major, gpu.sm_minor)
    if refusal := selector.refusal(str(choice.backend), layer, gpu):
        return Reached((), why_not=f"SGLang ends with an error: {refusal}")
    if choice.backend == "dsa":
        return reach_sparse(layer, step, gpu)
    if layer.mla:
        return reach_mla(str(choice.backend), layer, step, sm)
    return reach_mha(str(choice.backend), layer, step, sm)
