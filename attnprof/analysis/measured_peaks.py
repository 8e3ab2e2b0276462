"""What a card was seen to reach at its best: a large copy, products of large matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attnprof.gpus import find_model
from attnprof.model import Gpu


@dataclass(frozen=True, slots=True)
class MeasuredPeaks:
    """Of one GPU, on one day.

    ``copy_gb_s``: 10**9 bytes a second, read and written, by a large copy in the card's own memory.
    ``matmul_tflop_s``: 10**12 operations a second by data type ("bf16"), of a product of large matrices.
    ``source`` says where this was read.
    """

    gpu: Gpu
    copy_gb_s: float | None
    matmul_tflop_s: Mapping[str, float]
    date: str
    source: str

    def is_of(self, gpu: Gpu | None) -> bool:
        """Whether it is of this kind of GPU, whole, by whichever of its names."""
        return gpu is not None and _kind(gpu) == _kind(self.gpu)


def _kind(gpu: Gpu) -> tuple[str, int]:
    model = find_model(gpu.name)
    return model.name if model else gpu.name, gpu.num_sms
