"""Whether a build of flash_attn holds the kernels that attnprof predicts: names against the binary's own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from attnprof.dispatch import predict
from attnprof.gpus import gpu_by_name
from benchmarks.gpu_evidence.calls import matrix
from benchmarks.gpu_evidence.package import with_caches, within

_CALLS = 20_000
_ARCH = re.compile(r"^arch = (\w+)$")
_FUNCTION = re.compile(r"^ *Function (\S+):\s*$")
_REGISTERS = re.compile(r"REG:(\d+)")
_SHARED = re.compile(r"SHARED:(\d+)")
Used = tuple[int, int]  # registers a thread, static shared memory in bytes


def check_built(folder: Path, version: str, head_dims: Sequence[int], dtypes: Sequence[str]) -> int:
    """Loads the extension in ``folder`` and looks for every predicted kernel; 1 where one is missing."""
    library = next(folder.glob("flash_attn_2_cuda*.so"), None)
    if library is None:
        print(f"error: {folder} holds no flash_attn_2_cuda*.so", file=sys.stderr)
        return 2
    load = "import torch, flash_attn_2_cuda as e; print(*[n for n in dir(e) if not n.startswith('_')])"
    loaded = subprocess.run(
        [sys.executable, "-c", load], capture_output=True, text=True, cwd=folder, check=False
    )
    if loaded.returncode:
        print(f"error: it does not load: {loaded.stderr.strip()[-2000:]}", file=sys.stderr)
        return 1
    print(f"loads: {loaded.stdout.strip()}")
    there = {name for _, name in kernel_resources(library)}
    wanted = predicted_kernels(version, head_dims, dtypes)
    missing = sorted(wanted - there)
    print(f"kernels: {len(there)} in the binary, {len(wanted)} distinct ones predicted for {_CALLS:,} calls")
    for name in missing:
        print(f"missing: {name}", file=sys.stderr)
    print("every predicted kernel is there" if not missing else f"{len(missing)} are not there")
    return 1 if missing else 0


def kernel_resources(library: Path) -> dict[tuple[str, str], Used]:
    """What each kernel uses, by architecture (``sm_90``) and demangled name, read by cuobjdump."""
    tool = find_cuobjdump()
    said = subprocess.run([tool, "-res-usage", str(library)], capture_output=True, text=True, check=True)
    arch, name = "", ""
    used: dict[tuple[str, str], Used] = {}
    for line in said.stdout.splitlines():
        if found := _ARCH.match(line):
            arch = found[1]
        elif found := _FUNCTION.match(line):
            name = found[1]
        elif name and "REG:" in line:
            registers, shared = _REGISTERS.search(line), _SHARED.search(line)
            used[arch, name] = (int(registers[1]) if registers else 0, int(shared[1]) if shared else 0)
            name = ""
    names = sorted({name for _, name in used})
    demangled = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    )
    spelled = dict(zip(names, map(as_predicted, demangled.stdout.splitlines()), strict=True))
    return {(arch, spelled[name]): each for (arch, name), each in used.items()}


def find_cuobjdump() -> str:
    """The toolkit's, else the one that Triton brings with torch; FileNotFoundError where there is none."""
    beside_torch = find_spec("triton")
    folders = list(beside_torch.submodule_search_locations or ()) if beside_torch else []
    brought = [path for folder in folders for path in Path(folder).rglob("bin/cuobjdump")]
    found = shutil.which("cuobjdump") or next(map(str, brought), None)
    if found is None:
        raise FileNotFoundError("cuobjdump is not found: it comes with the CUDA toolkit and with Triton")
    return found


def as_predicted(name: str) -> str:
    """A name of c++filt as predictions spell it: without the return type."""
    return name.removeprefix("void ")


def predicted_kernels(version: str, head_dims: Sequence[int], dtypes: Sequence[str]) -> set[str]:
    """The kernels of many calls at every boundary, of these head dims and data types, on an H100."""
    gpu = gpu_by_name("H100")
    found: set[str] = set()
    part = {"head_dims": list(head_dims), "dtypes": list(dtypes)}
    for call in within(part, with_caches(matrix(_CALLS, "flash_attn", seed=5))):
        found.update(as_predicted(launch.kernel) for launch in predict(call, gpu, version).launches)
    return found
