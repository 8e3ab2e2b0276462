"""The GPU table: what dispatch and reports need to know of each model, by name or compute capability.

SM counts and L2: what ``cudaGetDeviceProperties`` prints, in traces or public logs, where one was found
("device properties"), else NVIDIA's architecture whitepapers and product data sheets. Memory: data sheets.
Limits per SM: CUDA C++ Programming Guide, table of technical specifications per compute capability.
AMD GPUs: compute units, LDS, memory and L2 from ROCm's documentation ("AMD GPU specifications", 7.13), L2 of
one die, as the device reports it. Bandwidth as published of the products: 5.3, 6 and 8 TB/s, and 3.2 of an
MI250X, which is two devices, each a row's; an MI210 has the memory of one, 4,096 bits at 1,600 MHz.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from attnprof.errors import UsageError
from attnprof.model import Gpu

DEFAULT_GPU = "H100 SXM5 80GB"

# Compute capability -> shared memory in KiB per SM and per block (opt-in), threads and blocks per SM.
_LIMITS = {
    (7, 0): (96, 96, 2048, 32),
    (7, 5): (64, 64, 1024, 16),
    (8, 0): (164, 163, 2048, 32),
    (8, 6): (100, 99, 1536, 16),
    (8, 7): (164, 163, 1536, 16),
    (8, 9): (100, 99, 1536, 24),
    (9, 0): (228, 227, 2048, 32),
    (10, 0): (228, 227, 2048, 32),
    (10, 3): (228, 227, 2048, 32),
    (11, 0): (228, 227, 1536, 24),
    (12, 0): (100, 99, 1536, 24),
    (12, 1): (100, 99, 1536, 24),
}
# The same of AMD's gfx90a, gfx942 and gfx950, with LDS. A compute unit holds 32 waves of 64 threads.
_AMD_LIMITS = {
    (9, 0): (64, 64, 2048, 32),
    (9, 4): (64, 64, 2048, 32),
    (9, 5): (160, 160, 2048, 32),
}
_AMD_NAME = re.compile(
    r"\bAMD\b|\bInstinct\b|\bRadeon\b|\bMI[0-9]{2,3}[AXP]?\b|\bgfx[0-9]{1,3}[0-9a-f]\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class GpuModel:
    """A row of the table. ``bandwidth_gb_s`` is the data sheet's peak.

    ``l2_mb`` is the L2 cache in MiB; None where nothing published or printed was found that states it.
    ``source`` is where the SM count comes from.
    """

    name: str
    sm: tuple[int, int]
    num_sms: int
    memory_gb: int
    bandwidth_gb_s: int
    l2_mb: float | None
    source: str
    aliases: tuple[str, ...] = ()

    @property
    def tensor_peak(self) -> TensorPeak | None:
        """The peak of its matrix units; None where nothing published states it."""
        return TENSOR_PEAKS.get(self.name)

    def peak_tflop_s(self, dtype: str) -> float | None:
        """The same for calls of a type ("bf16", "fp16", "fp8"); None for others."""
        peak = self.tensor_peak
        if peak is None or (dtype == "bf16" and self.sm < (8, 0)):
            return None
        return {"bf16": peak.half, "fp16": peak.half, "fp8": peak.fp8}.get(dtype)


@dataclass(frozen=True, slots=True)
class TensorPeak:
    """What a GPU's matrix units compute at most, dense and summed up in FP32 as attention does, in TFLOP/s.

    ``half`` of FP16 and, but on compute capability 7.5, of BF16; ``fp8`` None where it has none.
    ``source`` states the dense figure, or the sparse one and that the dense is half of it.
    """

    half: float
    fp8: float | None
    source: str


_GA102, _AD102, _GB202 = "GA102 whitepaper", "Ada whitepaper", "Blackwell whitepaper"
_ROCM = "ROCm GPU specifications"
_SHEET, _QUERIED = "product data sheet", "device properties"

GPUS: tuple[GpuModel, ...] = (
    GpuModel("Tesla T4", (7, 5), 40, 16, 320, 4, _QUERIED),
    GpuModel("A100-SXM4-40GB", (8, 0), 108, 40, 1555, 40, _QUERIED),
    GpuModel("A100-PCIE-40GB", (8, 0), 108, 40, 1555, 40, _QUERIED),
    GpuModel("A100-SXM4-80GB", (8, 0), 108, 80, 2039, 40, _QUERIED, ("a100", "a100-80gb", "a100-sxm")),
    GpuModel("A100 80GB PCIe", (8, 0), 108, 80, 1935, 40, _QUERIED, ("a100-pcie",)),
    GpuModel("A800-SXM4-80GB", (8, 0), 108, 80, 2039, 40, _SHEET, ("a800",)),
    GpuModel("A30", (8, 0), 56, 24, 933, 24, _SHEET),
    GpuModel("A2", (8, 6), 10, 16, 200, 2, _SHEET),
    GpuModel("A10", (8, 6), 72, 24, 600, 6, _QUERIED),
    GpuModel("A10G", (8, 6), 80, 24, 600, 6, _QUERIED),
    GpuModel("A16", (8, 6), 10, 16, 200, None, _SHEET),  # one of the board's four
    GpuModel("A40", (8, 6), 84, 48, 696, 6, _QUERIED),
    GpuModel("RTX A2000 12GB", (8, 6), 26, 12, 288, None, _SHEET, ("a2000",)),
    GpuModel("RTX A4000", (8, 6), 48, 16, 448, 4, _QUERIED, ("a4000",)),
    GpuModel("RTX A4500", (8, 6), 56, 20, 640, None, _SHEET, ("a4500",)),
    GpuModel("RTX A5000", (8, 6), 64, 24, 768, 6, _QUERIED, ("a5000",)),
    GpuModel("RTX A6000", (8, 6), 84, 48, 768, 6, _QUERIED, ("a6000",)),
    GpuModel("GeForce RTX 3050", (8, 6), 20, 8, 224, None, _SHEET, ("3050",)),
    GpuModel("GeForce RTX 3060", (8, 6), 28, 12, 360, 2.25, _QUERIED, ("3060",)),
    GpuModel("GeForce RTX 3060 Ti", (8, 6), 38, 8, 448, 4, _SHEET, ("3060ti",)),
    GpuModel("GeForce RTX 3070", (8, 6), 46, 8, 448, 4, _GA102, ("3070",)),
    GpuModel("GeForce RTX 3070 Ti", (8, 6), 48, 8, 608, 4, _QUERIED, ("3070ti",)),
    GpuModel("GeForce RTX 3080", (8, 6), 68, 10, 760, 5, _QUERIED, ("3080",)),
    GpuModel("GeForce RTX 3080 Ti", (8, 6), 80, 12, 912, 6, _SHEET, ("3080ti",)),
    GpuModel("GeForce RTX 3090", (8, 6), 82, 24, 936, 6, _QUERIED, ("3090",)),
    GpuModel("GeForce RTX 3090 Ti", (8, 6), 84, 24, 1008, 6, _SHEET, ("3090ti",)),
    GpuModel("Jetson AGX Orin 64GB", (8, 7), 16, 64, 205, 4, _SHEET, ("orin", "agx-orin")),
    GpuModel("Jetson Orin NX 16GB", (8, 7), 8, 16, 102, 2, _QUERIED, ("orin-nx",)),
    GpuModel("L4", (8, 9), 58, 24, 300, 48, _QUERIED),
    GpuModel("L20", (8, 9), 92, 48, 864, 96, _SHEET),
    GpuModel("L40", (8, 9), 142, 48, 864, 96, _QUERIED),
    GpuModel("L40S", (8, 9), 142, 48, 864, 96, _QUERIED),
    GpuModel("RTX 2000 Ada Generation", (8, 9), 22, 16, 224, 12, _SHEET, ("2000ada",)),
    GpuModel("RTX 4000 Ada Generation", (8, 9), 48, 20, 360, 48, _SHEET, ("4000ada",)),
    GpuModel("RTX 4500 Ada Generation", (8, 9), 60, 24, 432, 48, _SHEET, ("4500ada",)),
    GpuModel("RTX 5000 Ada Generation", (8, 9), 100, 32, 576, None, _SHEET, ("5000ada",)),
    GpuModel("RTX 6000 Ada Generation", (8, 9), 142, 48, 960, 96, _AD102, ("6000ada",)),
    GpuModel("GeForce RTX 4060", (8, 9), 24, 8, 272, 24, _SHEET, ("4060",)),
    GpuModel("GeForce RTX 4060 Ti", (8, 9), 34, 16, 288, 32, _QUERIED, ("4060ti",)),
    GpuModel("GeForce RTX 4070", (8, 9), 46, 12, 504, 36, _SHEET, ("4070",)),
    GpuModel("GeForce RTX 4070 SUPER", (8, 9), 56, 12, 504, 48, _SHEET, ("4070super",)),
    GpuModel("GeForce RTX 4070 Ti", (8, 9), 60, 12, 504, 48, _SHEET, ("4070ti",)),
    GpuModel("GeForce RTX 4070 Ti SUPER", (8, 9), 66, 16, 672, 48, _SHEET, ("4070tisuper",)),
    GpuModel("GeForce RTX 4080", (8, 9), 76, 16, 717, 64, _AD102, ("4080",)),
    GpuModel("GeForce RTX 4080 SUPER", (8, 9), 80, 16, 736, 64, _SHEET, ("4080super",)),
    GpuModel("GeForce RTX 4090", (8, 9), 128, 24, 1008, 72, _AD102, ("4090",)),
    GpuModel("GeForce RTX 4090 D", (8, 9), 114, 24, 1008, 72, _SHEET, ("4090d",)),
    GpuModel(
        "H100 SXM5 80GB", (9, 0), 132, 80, 3352, 50, _QUERIED, ("h100", "h100 80gb hbm3", "h100-sxm")
    ),
    GpuModel("H100 PCIe", (9, 0), 114, 80, 2039, 50, _QUERIED, ("h100-pcie",)),
    GpuModel("H100 NVL", (9, 0), 132, 94, 3938, None, _SHEET, ("h100-nvl",)),
    GpuModel("H800", (9, 0), 132, 80, 3352, 50, _QUERIED, ("h800-sxm",)),
    GpuModel("H200", (9, 0), 132, 141, 4800, 60, _QUERIED, ("h200-sxm",)),
    GpuModel("H200 NVL", (9, 0), 132, 141, 4800, None, _SHEET, ("h200-nvl",)),
    GpuModel("H20", (9, 0), 78, 96, 4000, 60, _QUERIED),
    GpuModel("GH200 480GB", (9, 0), 132, 96, 4000, 60, _QUERIED, ("gh200", "gh200 120gb")),
    GpuModel("B200", (10, 0), 148, 180, 8000, 126, _QUERIED),
    GpuModel("GB200", (10, 0), 152, 186, 8000, None, _QUERIED),
    GpuModel("B300", (10, 3), 148, 288, 8000, 126.5, _QUERIED, ("b300 sxm6 ac",)),
    GpuModel("GB300", (10, 3), 152, 288, 8000, None, _QUERIED),
    GpuModel("Jetson AGX Thor", (11, 0), 20, 128, 273, 32, _QUERIED, ("thor",)),
    GpuModel(
        "RTX PRO 6000 Blackwell", (12, 0), 188, 96, 1792, 128, _QUERIED,
        (
            "rtxpro6000",
            "rtx pro 6000 blackwell workstation edition",
            "rtx pro 6000 blackwell max-q workstation edition",
        ),
    ),
    GpuModel(
        "RTX PRO 6000 Blackwell Server", (12, 0), 188, 96, 1597, 128, _QUERIED,
        ("rtx pro 6000 blackwell server edition",),
    ),
    GpuModel("RTX PRO 5000 Blackwell", (12, 0), 110, 48, 1344, 96, _SHEET, ("rtxpro5000",)),
    GpuModel("RTX PRO 4500 Blackwell", (12, 0), 82, 32, 896, 64, _QUERIED, ("rtxpro4500",)),
    GpuModel("RTX PRO 4000 Blackwell", (12, 0), 70, 24, 672, 48, _SHEET, ("rtxpro4000",)),
    GpuModel("GeForce RTX 5050", (12, 0), 20, 8, 320, None, _SHEET, ("5050",)),
    GpuModel("GeForce RTX 5060", (12, 0), 30, 8, 448, None, _QUERIED, ("5060",)),
    GpuModel("GeForce RTX 5060 Ti", (12, 0), 36, 16, 448, 32, _QUERIED, ("5060ti",)),
    GpuModel("GeForce RTX 5070", (12, 0), 48, 12, 672, 48, _GB202, ("5070",)),
    GpuModel("GeForce RTX 5070 Ti", (12, 0), 70, 16, 896, 48, _GB202, ("5070ti",)),
    GpuModel("GeForce RTX 5080", (12, 0), 84, 16, 960, 64, _QUERIED, ("5080",)),
    GpuModel("GeForce RTX 5090", (12, 0), 170, 32, 1792, 96, _QUERIED, ("5090",)),
    GpuModel("GB10", (12, 1), 48, 128, 273, 24, _QUERIED, ("dgx-spark",)),
    GpuModel("AMD Instinct MI210", (9, 0), 104, 64, 1638, 8, _ROCM, ("mi210",)),
    GpuModel("AMD Instinct MI250X", (9, 0), 110, 64, 1638, 8, _ROCM, ("mi250x", "mi250x gcd")),
    GpuModel("AMD Instinct MI300X", (9, 4), 304, 192, 5300, 4, _QUERIED, ("mi300x", "mi300x vf")),
    GpuModel("AMD Instinct MI325X", (9, 4), 304, 256, 6000, 4, _ROCM, ("mi325x", "mi325x vf")),
    GpuModel("AMD Instinct MI350X", (9, 5), 256, 288, 8000, 4, _ROCM, ("mi350x", "mi350x vf")),
    GpuModel("AMD Instinct MI355X", (9, 5), 256, 288, 8000, 4, _ROCM, ("mi355x", "mi355x vf")),
)  # fmt: skip

# GeForce cards sum up in FP32 at half the rate of FP16: their whitepapers state both.
_A100_SHEET, _H100_PAPER = "A100 data sheet", "H100 whitepaper"
_HGX_B200, _NVL72 = "HGX B200 data sheet (eight, sparse)", "GB200 NVL72 data sheet (72, sparse)"
TENSOR_PEAKS: dict[str, TensorPeak] = {
    "Tesla T4": TensorPeak(65, None, "T4 data sheet"),
    "A100-SXM4-40GB": TensorPeak(312, None, _A100_SHEET),
    "A100-PCIE-40GB": TensorPeak(312, None, _A100_SHEET),
    "A100-SXM4-80GB": TensorPeak(312, None, _A100_SHEET),
    "A100 80GB PCIe": TensorPeak(312, None, _A100_SHEET),
    "A800-SXM4-80GB": TensorPeak(312, None, "A800 data sheet"),
    "A30": TensorPeak(165, None, "A30 data sheet"),
    "A2": TensorPeak(18, None, "A2 data sheet"),
    "A10": TensorPeak(125, None, "A10 data sheet"),
    "A40": TensorPeak(149.7, None, "A40 data sheet"),
    "RTX A6000": TensorPeak(154.8, None, _GA102),
    "GeForce RTX 3070": TensorPeak(40.6, None, _GA102),
    "GeForce RTX 3080": TensorPeak(59.5, None, _GA102),
    "GeForce RTX 3090": TensorPeak(71, None, _GA102),
    "L4": TensorPeak(121, 242.5, "L4 data sheet (sparse)"),
    "L40": TensorPeak(181.05, 362, "L40 data sheet"),
    "L40S": TensorPeak(362.05, 733, "L40S data sheet"),
    "RTX 6000 Ada Generation": TensorPeak(364.2, 728.5, _AD102),
    "GeForce RTX 4080": TensorPeak(97.5, 194.9, _AD102),
    "GeForce RTX 4090": TensorPeak(165.2, 330.3, _AD102),
    "H100 SXM5 80GB": TensorPeak(989.4, 1978.9, _H100_PAPER),
    "H100 PCIe": TensorPeak(756, 1513, _H100_PAPER),
    "H100 NVL": TensorPeak(835.5, 1670.5, "H100 NVL data sheet (sparse)"),
    "H800": TensorPeak(989.5, 1979, "H800 data sheet (sparse)"),
    "H200": TensorPeak(989.5, 1979, "H200 data sheet (sparse)"),
    "H200 NVL": TensorPeak(835.5, 1670.5, "H200 data sheet (sparse)"),
    "GH200 480GB": TensorPeak(990, 1979, "GH200 data sheet"),
    "B200": TensorPeak(2250, 4500, _HGX_B200),
    "GB200": TensorPeak(2500, 5000, _NVL72),
    "GeForce RTX 5070": TensorPeak(61.7, 123.5, _GB202),
    "GeForce RTX 5070 Ti": TensorPeak(87.9, 175.8, _GB202),
    "GeForce RTX 5080": TensorPeak(112.6, 225.1, _GB202),
    "GeForce RTX 5090": TensorPeak(209.5, 419, _GB202),
    "AMD Instinct MI210": TensorPeak(181, None, "MI210 data sheet"),
    "AMD Instinct MI250X": TensorPeak(191.5, None, "MI250X data sheet (two dies)"),
    "AMD Instinct MI300X": TensorPeak(1307.4, 2614.9, "MI300X data sheet"),
    "AMD Instinct MI325X": TensorPeak(1307.4, 2614.9, "MI325X data sheet"),
    "AMD Instinct MI355X": TensorPeak(2500, 5000, "MI355X data sheet"),
}


def _key(name: str) -> str:
    """A name without vendor, spaces and punctuation, for lookup."""
    return (
        re.sub(r"[^a-z0-9]", "", name.lower())
        .removeprefix("nvidia")
        .removeprefix("amd")
        .removeprefix("instinct")
        .removeprefix("geforce")
        .removeprefix("tesla")
    )


_BY_KEY = {_key(spelling): gpu for gpu in GPUS for spelling in (gpu.name, *gpu.aliases)}


def _limits(sm_major: int, sm_minor: int, vendor: str = "nvidia") -> tuple[int, int, int, int]:
    """The row of a compute capability, or of the nearest known one below it."""
    limits = _AMD_LIMITS if vendor == "amd" else _LIMITS
    known = [sm for sm in limits if sm <= (sm_major, sm_minor)] or [min(limits)]
    return limits[max(known)]


def is_amd(name: str) -> bool:
    """Whether a GPU of this name is AMD's, as it calls itself or by its architecture."""
    return _AMD_NAME.search(name) is not None


def make_gpu(name: str, sm_major: int, sm_minor: int, num_sms: int) -> Gpu:
    """A Gpu whose shared memory follows from its compute capability (the nearest known one below it).

    Whose it is, the name tells: gfx90a calls itself 9.0, as Hopper does.
    """
    vendor: Literal["nvidia", "amd"] = "amd" if is_amd(name) else "nvidia"
    per_sm, per_block, _, _ = _limits(sm_major, sm_minor, vendor)
    return Gpu(name, sm_major, sm_minor, num_sms, per_sm * 1024, per_block * 1024, vendor)


def described_gpu(name: str, sm: tuple[int, int] | None, num_sms: int) -> Gpu | None:
    """The Gpu that a trace describes, whose capability ``sm`` is told by its name where the trace lacks it.

    None where neither tells; an AMD GPU that the table lacks is made all the same, for what it is not.
    """
    model = find_model(name)
    known = sm or (model.sm if model else None)
    if known is None and not is_amd(name):
        return None
    return make_gpu(name, *(known or (0, 0)), num_sms)


def resident_limits(gpu: Gpu) -> tuple[int, int]:
    """(threads, thread blocks) that can be resident on one SM at once, whatever the kernel."""
    _, _, threads, blocks = _limits(gpu.sm_major, gpu.sm_minor, gpu.vendor)
    return threads, blocks


def find_model(name: str) -> GpuModel | None:
    """The table row for a name as a person or a driver spells it, or None."""
    return _BY_KEY.get(_key(name))


def gpu_by_name(name: str) -> Gpu:
    """The Gpu called ``name``. Raises UsageError naming the closest known ones."""
    model = find_model(name)
    if model is None:
        import difflib

        close = difflib.get_close_matches(_key(name), _BY_KEY, n=3, cutoff=0.5)
        near = ", ".join(dict.fromkeys(_BY_KEY[key].name for key in close))
        raise UsageError(
            f"unknown GPU {name!r}" + (f"; close: {near}" if near else ""),
            hint="attnprof gpus lists the known ones; give any other as --sms N --sm 9.0",
        )
    return make_gpu(model.name, *model.sm, model.num_sms)


def gpu_from_options(name: str | None, sms: int | None, sm: str | None) -> Gpu | None:
    """The Gpu that --gpu, or --sms with --sm, name; None where neither is given. Raises UsageError."""
    if name is not None:
        if sms is not None or sm is not None:
            raise UsageError("--gpu names the SM count already", hint="give --gpu, or --sms with --sm")
        return gpu_by_name(name)
    if sms is None and sm is None:
        return None
    if sms is None or sm is None:
        raise UsageError("--sms and --sm go together", hint="for example --sms 132 --sm 9.0")
    major, dot, minor = sm.partition(".")
    if not (major.isdigit() and minor.isdigit() and dot):
        raise UsageError(f"--sm {sm!r} is no compute capability", hint="for example --sm 9.0")
    if sms < 1:
        raise UsageError(f"--sms must be at least 1, not {sms}")
    return make_gpu(f"GPU with {sms} SMs", int(major), int(minor), sms)
