"""The toy library as the registry knows it."""

from __future__ import annotations

from attnprof.dispatch.intervals import InferredCall, Interval
from attnprof.dispatch.library import AttentionLibrary
from attnprof.dispatch.versions import parse_version
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason
from tests.support.toy_attention.names import KERNEL

KEYS_PER_SPLIT = {"1.0": 1000, "2.0": 500}


class ToyAttention(AttentionLibrary):
    """``python -m pip install toy-attention`` would install it."""

    entries = ("fwd",)
    functions = {"fwd": "toy"}  # noqa: RUF012
    packages = ("toy-attention",)
    modelled = "its one launch is modelled"

    @property
    def default_version(self) -> str:
        return "2.0"

    def check_version(self, version: str) -> None:
        parse_version(version, library="toy", oldest="1.0", newest="2.0")

    def predict(self, call: AttentionCall, gpu: Gpu, version: str, *, explain: bool = False) -> Prediction:
        self.check_version(version)
        splits = max(1, call.seqlen_k // KEYS_PER_SPLIT[version])
        reasons = (Reason("num_splits", str(splits), f"one per {KEYS_PER_SPLIT[version]} keys"),)
        launch = KernelLaunch(f"void {KERNEL}<{call.head_dim}>(Params)", (call.batch, splits, 1), (128, 1, 1))
        return Prediction((launch,), splits, None, reasons if explain else ())

    def key_block(self, call: AttentionCall) -> int:
        return KEYS_PER_SPLIT[self.default_version]

    def template_fields(self, kernel: str) -> tuple[tuple[str, object], ...] | None:
        if KERNEL not in kernel:
            return None
        return (("head_dim", int(kernel.partition("<")[2].partition(">")[0])),)

    def read_back(self, kernel: str, grid: tuple[int, int, int], num_sms: int) -> InferredCall | None:
        if KERNEL not in kernel:
            return None
        keys = KEYS_PER_SPLIT[self.default_version]
        return InferredCall(grid[1], grid[0], (1,), (Interval(keys * grid[1], keys * (grid[1] + 1) - 1),))


LIBRARY = ToyAttention()
