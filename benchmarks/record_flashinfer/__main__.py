"""Records FlashInfer's plans, launches and trtllm-gen kernels from its released packages, without a GPU.

Upstream's own planners and launchers are compiled by nvcc 13.0 and linked with a CUDA runtime that reports
the device of each call and writes launches down (runtime.cpp). It answers occupancy with NVIDIA's
cuda_occupancy.h for the registers that ptxas printed. ``build`` takes an hour on two cores.

    pip download --no-deps flashinfer-python==VERSION, of 0.7.4, 0.7.2.post1, 0.7.2, 0.6.13 and 0.6.8.post1
    pip download --no-deps flashinfer-cubin==VERSION, of the latter two
    unzip each into WORK/VERSION and WORK/cubin-VERSION
    python -m benchmarks.record_flashinfer build WORK
    python -m benchmarks.record_flashinfer record WORK tests/data/golden
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.record_flashinfer.build import build
from benchmarks.record_flashinfer.record import record


def main() -> None:
    """``build WORK`` or ``record WORK FOLDER``."""
    match sys.argv[1:]:
        case ["build", work]:
            build(Path(work))
        case ["record", work, folder]:
            record(Path(work), Path(folder))
        case _:
            raise SystemExit(__doc__)


main()
