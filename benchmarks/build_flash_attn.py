"""Builds flash_attn's forward kernels for one GPU architecture, in minutes, on a machine without a GPU.

The source of flash_attn compiles some 70 CUDA files for up to four architectures. Measuring needs the forward
kernels of one architecture, of the head dims and data types that are measured. The rest of the extension's
functions are replaced by ones that say what was left out, so that the library loads whole.

    python -m benchmarks.build_flash_attn --out packages/ --head-dims 128 --dtypes bf16

It builds against the torch of the Python that runs it: where the result is used, torch and the minor version
of Python must be the same. What was built is loaded, and its kernels are held against those predicted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from time import monotonic

VERSION = "2.8.3.post2"
HEAD_DIMS = (32, 64, 96, 128, 192, 256)
DTYPES = {"bf16": "cutlass::bfloat16_t", "fp16": "cutlass::half_t"}
BUILT = "flash_attn_built.json"  # beside the package: the head dims and data types it holds
_EXTENSION = "flash_attn_2_cuda"
# What flash_attn's setup.py passes to nvcc.
_NVCC = (
    "-O3",
    "-std=c++17",
    "-U__CUDA_NO_HALF_OPERATORS__",
    "-U__CUDA_NO_HALF_CONVERSIONS__",
    "-U__CUDA_NO_HALF2_OPERATORS__",
    "-U__CUDA_NO_BFLOAT16_CONVERSIONS__",
    "--expt-relaxed-constexpr",
    "--expt-extended-lambda",
    "--use_fast_math",
    "-Xcompiler",
    "-fPIC",
)
_LEFT_OUT = """#include <c10/util/Exception.h>
#include <cutlass/numeric_types.h>
#include "namespace_config.h"
#include "flash.h"

namespace FLASH_NAMESPACE {{
{functions}
}}
"""
_FUNCTION = (
    "template<> void {name}<{dtype}, {head_dim}, {causal}>({params} &, cudaStream_t) "
    '{{ TORCH_CHECK(false, "{name} of head dim {head_dim} was left out of this build of flash_attn"); }}'
)
_FORWARD, _SPLIT, _BACKWARD = "run_mha_fwd_", "run_mha_fwd_splitkv_dispatch", "run_mha_bwd_"


class BuildError(Exception):
    """The build cannot begin or did not end; says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.build_flash_attn",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where flash_attn goes")
    parser.add_argument(
        "--work", type=Path, metavar="FOLDER", help="sources and objects, used again next time"
    )
    parser.add_argument("--version", default=VERSION, help=f"of flash_attn (default {VERSION})")
    parser.add_argument("--arch", default="90", help="80, 90, 100 or 120 (default 90: H100, H200)")
    parser.add_argument("--head-dims", default="128", help="of 32,64,96,128,192,256 (default 128)")
    parser.add_argument("--dtypes", default="bf16", help="of bf16,fp16 (default bf16)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="files compiled at once")
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--check", action="store_true", help="only check what stands in --out")
    options = parser.parse_args(arguments)
    try:
        head_dims = _chosen("--head-dims", options.head_dims, tuple(map(str, HEAD_DIMS)))
        dtypes = _chosen("--dtypes", options.dtypes, tuple(DTYPES))
        if not options.check:
            began = monotonic()
            work = options.work or options.out / "build"
            source = fetch_source(options.version, work)
            wanted = [(dtype, int(head_dim)) for dtype in dtypes for head_dim in head_dims]
            library = build(source, work, wanted, arch=options.arch, jobs=options.jobs, nvcc=options.nvcc)
            install(source, library, options.out, options.version)
            built = {"head_dims": [int(d) for d in head_dims], "dtypes": dtypes}
            (options.out / BUILT).write_text(json.dumps(built) + "\n")
            size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
            print(f"built in {monotonic() - began:.0f} s: {options.out}, {size / 1e6:.1f} MB")
        from benchmarks.flash_attn_kernels import check_built

        return check_built(options.out, options.version, [int(d) for d in head_dims], dtypes)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _chosen(option: str, given: str, known: tuple[str, ...]) -> list[str]:
    chosen = [name.strip() for name in given.split(",") if name.strip()]
    wrong = [name for name in chosen if name not in known]
    if wrong or not chosen:
        raise BuildError(f"{option} {given}: not among {', '.join(known)}")
    return chosen


def fetch_source(version: str, work: Path) -> Path:
    """The unpacked source distribution of this version, downloaded once."""
    source = work / f"flash_attn-{version}"
    if source.is_dir():
        return source
    work.mkdir(parents=True, exist_ok=True)
    packed = next(work.glob(f"flash_attn-{version}.tar.gz"), None)
    if packed is None:
        # pip runs its setup.py to read the metadata: told not to ask for a CUDA build.
        environment = {**os.environ, "FLASH_ATTENTION_SKIP_CUDA_BUILD": "TRUE"}
        command = ["-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
        _run([sys.executable, *command, f"flash_attn=={version}", "-d", str(work)], env=environment)
        packed = work / f"flash_attn-{version}.tar.gz"
    with tarfile.open(packed) as archive:
        archive.extractall(work, filter="data")
    return source


def build(
    source: Path, work: Path, wanted: Sequence[tuple[str, int]], *, arch: str, jobs: int, nvcc: str
) -> Path:
    """Compiles and links the extension; ``wanted``: (dtype, head dim) pairs. Prints each file's seconds."""
    if shutil.which(nvcc) is None:
        raise BuildError(f"{nvcc} is not found: install a CUDA toolkit of the torch's major version")
    torch_folder, abi, cuda = _torch()
    major = re.search(r"release (\d+)\.", _run([nvcc, "--version"]))
    if major is None or major[1] != cuda.partition(".")[0]:
        raise BuildError(
            f"{nvcc} is of CUDA {major and major[1]}, torch of CUDA {cuda}: the majors must agree"
        )
    csrc = source / "csrc" / "flash_attn"
    objects = work / f"objects-sm{arch}-py{sysconfig.get_config_var('py_version_nodot')}"
    objects.mkdir(parents=True, exist_ok=True)
    left_out = objects / "left_out.cpp"
    left_out.write_text(_left_out(wanted))
    kernels = [path for dtype, head_dim in wanted for path in sorted(_sources(csrc / "src", dtype, head_dim))]
    includes = [csrc, csrc / "src", source / "csrc" / "cutlass" / "include"]
    includes += [torch_folder / "include", torch_folder / "include" / "torch" / "csrc" / "api" / "include"]
    includes.append(Path(sysconfig.get_paths()["include"]))
    flags = [f"-I{path}" for path in includes]
    for folder in _cuda_headers():  # behind nvcc's own, of which these packages hold only a part
        flags += ["-Xcompiler", "-idirafter", "-Xcompiler", str(folder)]
    flags += [f"-DTORCH_EXTENSION_NAME={_EXTENSION}", f"-D_GLIBCXX_USE_CXX11_ABI={int(abi)}"]
    target = [*_NVCC, "-gencode", f"arch=compute_{arch},code=sm_{arch}"]

    def compiled(path: Path) -> Path:
        made = objects / f"{path.stem}.o"
        if made.exists() and made.stat().st_mtime >= path.stat().st_mtime:
            return made
        began, partial = monotonic(), made.with_suffix(".part")
        how = target if path.suffix == ".cu" else ["-O2", "-std=c++17", "-Xcompiler", "-fPIC"]
        _run([nvcc, *how, *flags, "-c", str(path), "-o", str(partial)])
        partial.rename(made)
        print(f"{path.name}: {monotonic() - began:.0f} s", flush=True)
        return made

    with ThreadPoolExecutor(jobs) as pool:
        made = list(pool.map(compiled, [*kernels, csrc / "flash_api.cpp", left_out]))
    library = objects / f"{_EXTENSION}{sysconfig.get_config_var('EXT_SUFFIX')}"
    links = ["-lc10", "-lc10_cuda", "-ltorch_cpu", "-ltorch_cuda", "-ltorch", "-ltorch_python"]
    command = [nvcc, "-shared", "-cudart", "shared", *map(str, made), f"-L{torch_folder / 'lib'}", *links]
    _run([*command, "-o", str(library)])  # the interpreter's own symbols stay open, as in every extension
    return library


def _torch() -> tuple[Path, bool, str]:
    """Torch's folder, its C++ ABI and its CUDA version."""
    try:
        import torch
    except ImportError:
        raise BuildError("torch is not installed here: it is what flash_attn is built against") from None
    if torch.version.cuda is None:
        raise BuildError(f"torch {torch.__version__} is built without CUDA: install the CUDA build")
    return Path(torch.__file__).parent, torch.compiled_with_cxx11_abi(), torch.version.cuda


def _cuda_headers() -> Iterator[Path]:
    """Headers of cuBLAS and the like, which torch's own include, in the packages that torch brings."""
    for entry in map(Path, sys.path):
        yield from entry.glob("nvidia/*/include")


def _sources(folder: Path, dtype: str, head_dim: int) -> Iterator[Path]:
    for split, causal in product(("", "split_"), ("", "_causal")):
        yield folder / f"flash_fwd_{split}hdim{head_dim}_{dtype}{causal}_sm80.cu"


def _left_out(wanted: Sequence[tuple[str, int]]) -> str:
    """Every kernel launcher that the host code names and no compiled file defines."""
    functions = []
    for dtype, head_dim, causal in product(DTYPES, HEAD_DIMS, ("false", "true")):
        for name in (_FORWARD, _SPLIT, _BACKWARD):
            if name != _BACKWARD and (dtype, head_dim) in wanted:
                continue
            params = "Flash_bwd_params" if name == _BACKWARD else "Flash_fwd_params"
            functions.append(
                _FUNCTION.format(
                    name=name, dtype=DTYPES[dtype], head_dim=head_dim, causal=causal, params=params
                )
            )
    return _LEFT_OUT.format(functions="\n".join(functions))


def install(source: Path, library: Path, out: Path, version: str) -> None:
    """The package as ``pip install --target`` would lay it: flash_attn, the extension and its metadata."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source / "flash_attn", out / "flash_attn", dirs_exist_ok=True)
    stripped = out / library.name
    _run(["strip", "--strip-unneeded", "-o", str(stripped), str(library)])
    metadata = out / f"flash_attn-{version}.dist-info"
    metadata.mkdir(exist_ok=True)
    shutil.copy(source / "PKG-INFO", metadata / "METADATA")
    shutil.copy(source / "LICENSE", metadata / "LICENSE")


def _run(command: Sequence[str], env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        raise BuildError(
            f"{' '.join(command[:3])} … ended with {done.returncode}:\n{done.stderr.strip()[-2000:]}"
        )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
