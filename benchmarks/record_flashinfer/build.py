"""Compiles upstream's host code into programs that answer a call per line."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
NEW, OLD, OLDEST = "0.7.2.post1", "0.6.13", "0.6.8.post1"
BEFORE, NEWEST = "0.7.2", "0.7.4"  # whose trtllm-gen differs from NEW's, of NEWEST also the plans
CUBINS = {
    NEW: OLD,
    BEFORE: OLD,
    NEWEST: OLD,
    OLD: OLD,
    OLDEST: OLDEST,
}  # the kernel table that each is asked over
ARCHITECTURES = ("80", "86", "89", "90a", "100a", "120a")
HEAD_DIMS = (64, 128, 256)
_FLAGS = ("-std=c++17", "-O1", "-w", "-use_fast_math", "--expt-relaxed-constexpr", "-cudart", "none")
_ENTRY = re.compile(r"Compiling entry function '(\S+)' for 'sm_(\d+)a?'")
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")
_SINCE = (  # fields of the kernel table that newer host code asks for, true of none of the older kernels
    "    bool mEnablesBf16QFp8KvKOnlyTransform, mSeparateTransformedKv, mFp16Softmax, mUsesSpcompress;\n"
    "    bool mFusesDsv4InvRopeFp8Quant, mUsesDsv4Ue8m0ScaleO;\n"
)


def build(work: Path) -> None:
    """Programs and registers of each version in ``work``, which holds the unpacked packages."""
    for version in (NEW, NEWEST):
        registers_of(work, version).write_text(registers(_launchers(work, version)))
    _oldest_launchers(work)
    for version in CUBINS:
        _trtllm_gen(work, version)


def registers_of(work: Path, version: str) -> Path:
    """What ptxas printed of a version's kernels."""
    return work / f"registers-{version}.txt"


def program_of(work: Path, part: str, version: str) -> Path:
    """The program of a part of launches.cu."""
    return work / f"{part.lower()}-{version}"


def _launchers(work: Path, version: str) -> str:
    """The programs of launches.cu; returns what ptxas printed of those whose occupancy is asked."""
    headers, log = work / version / "flashinfer" / "data" / "include", ""
    emptied = work / f"emptied-{version}"
    shutil.copytree(headers, emptied, dirs_exist_ok=True)
    prefill = emptied / "flashinfer" / "attention" / "prefill.cuh"
    call = "  BatchPrefillWithPagedKVCacheDevice<KTraits, SAME_KV_STRIDES>(params, smem_storage);\n"
    text = prefill.read_text()
    if text.count(call) != 1:
        raise SystemExit(f"{prefill} is not the one that was read")
    prefill.write_text(text.replace(call, ""))
    plain = (("PLANS", 128), *(("BATCH_PREFILL", dim) for dim in HEAD_DIMS[:2]))
    for part, dim in plain:
        _launcher(work, part, dim, emptied, ("80",), version)
    for part, dims in (("DECODE", HEAD_DIMS), ("PREFILL", (128,))):
        for dim in dims:
            log += _launcher(work, part, dim, headers, ARCHITECTURES, version)
    return log


def _oldest_launchers(work: Path) -> None:
    """Plans and paged batches of OLDEST, and the registers of the kernel that merges its chunks."""
    emptied = work / f"emptied-{OLDEST}"
    shutil.copytree(work / OLDEST / "flashinfer" / "data" / "include", emptied, dirs_exist_ok=True)
    prefill = emptied / "flashinfer" / "attention" / "prefill.cuh"
    body = "  BatchPrefillWithPagedKVCacheDevice<KTraits>(params, smem_storage);\n"
    prefill.write_text(prefill.read_text().replace(body, ""))
    _launcher(work, "PLANS", 128, emptied, ("80",), OLDEST)
    log = ""
    for dim in HEAD_DIMS[:2]:
        log += _launcher(work, "BATCH_PREFILL", dim, emptied, ARCHITECTURES, OLDEST)
    registers_of(work, OLDEST).write_text(registers(log))


def _launcher(
    work: Path, part: str, dim: int, include: Path, architectures: tuple[str, ...], version: str
) -> str:
    codes = [f"-gencode=arch=compute_{one},code=sm_{one}" for one in architectures]
    since = {OLDEST: ["-DBEFORE_0_7"], NEWEST: ["-DSINCE_0_7_4"]}.get(version, [])
    given = (f"-D{part}", *since, f"-DRECORDED_DIM={dim}", f"-I{include}", *_cccl(work), f"-I{HERE}")
    sources = (str(HERE / "launches.cu"), str(HERE / "runtime.cpp"))
    program = program_of(work, f"{part}_{dim}", version)
    return _nvcc(*codes, "-Xptxas", "-v", *given, *sources, "-o", str(program))


def _trtllm_gen(work: Path, version: str) -> None:
    data = work / version / "flashinfer" / "data"
    table = table_of(work, version)
    include = work / f"table-{version}"
    include.mkdir(exist_ok=True)
    text = table.read_text()
    if version not in (OLD, OLDEST):
        end = "    const char* sha256;\n"
        text = text.replace(end, end + _SINCE, 1)
    (include / table.name).write_text(text)
    for header in ("cublasLt.h", "cublas_v2.h"):
        (include / header).write_text("#pragma once\n")
    given = (
        "-arch=sm_100a", '-DTLLM_GEN_FMHA_CUBIN_PATH="x"', '-DTLLM_GEN_FMHA_METAINFO_HASH="x"',
        f"-I{include}", *_cccl(work), f"-I{data / 'include'}",
        f"-I{data / 'cutlass' / 'include'}", f"-I{HERE}",
        *{OLDEST: ["-DONE_KV_DTYPE"], NEWEST: ["-DSINCE_0_7_4"]}.get(version, []),
    )  # fmt: skip
    sources = (HERE / "trtllm_gen.cu", data / "csrc" / "fmhaReduction.cu", HERE / "runtime.cpp")
    _nvcc(*given, *map(str, sources), "-o", str(work / f"trtllm_gen-{version}"))


def table_of(work: Path, version: str) -> Path:
    """The kernel table in the unpacked cubin package that a version is asked over."""
    return next((work / f"cubin-{CUBINS[version]}").rglob("fmha/trtllm-gen/include/flashInferMetaInfo.h"))


def _cccl(work: Path) -> tuple[str, ...]:
    """Newer than the toolkit's, which the older package needs too."""
    cccl = work / NEW / "flashinfer" / "data" / "cccl"
    return tuple(f"-I{cccl / folder}" for folder in ("libcudacxx/include", "cub", "thrust"))


def _nvcc(*arguments: str) -> str:
    done = subprocess.run(["nvcc", *_FLAGS, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    return done.stderr + done.stdout


def registers(log: str) -> str:
    """What ptxas printed, a kernel a line: SM, symbol, registers, static shared memory, most threads."""
    found: dict[tuple[int, str], tuple[int, int]] = {}
    entry: tuple[int, str] | None = None
    for line in log.splitlines():
        if named := _ENTRY.search(line):
            entry = int(named[2]), named[1]
        elif entry and (used := _USED.search(line)):
            found[entry] = int(used[1]), int(used[2] or 0)
            entry = None
    lines = (f"{sm} {symbol} {used} {smem} 1024\n" for (sm, symbol), (used, smem) in sorted(found.items()))
    return "".join(lines)
