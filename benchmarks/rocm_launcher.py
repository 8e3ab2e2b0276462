"""The host code of vLLM's paged attention for ROCm, compiled without ROCm: what it launches for a call.

Source is csrc/rocm/attention_kernels.cuh of vLLM's sdist, from LAUNCH_CUSTOM_ATTENTION_MFMA16 to the end of
``paged_attention_custom_launcher``: as it is, but for each launch, which prints kernel, grid and block in its
place. Tensors are stood in for by their sizes.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

_BEGIN, _END = "#define LAUNCH_CUSTOM_ATTENTION_MFMA16", "void paged_attention_custom_launcher_navi("
_LAUNCH = re.compile(r"(paged_attention\w+_kernel)<((?:[^<>;])*)>[\s\\]*<<<(\w+), (\w+), 0, stream>>>\(")
_BEFORE = r"""
#include <cassert>
#include <cstdio>
#include <optional>
#include <vector>
struct dim3 { int x, y, z; dim3(int x, int y = 1, int z = 1) : x(x), y(y), z(z) {} };
using cudaStream_t = int;
enum class MFMAType { F16 = 0 };
namespace vllm { enum class Fp8KVCacheDataType { kAuto = 0 }; }
namespace torch { struct Tensor {
  std::vector<long> sizes;
  long size(int at) const { return sizes[at]; }
  long stride(int) const { return 1; }
  void* data_ptr() const { return nullptr; }
  template <typename T> T* data_ptr() const { return nullptr; }
}; }
namespace at::cuda { struct OptionalCUDAGuard { explicit OptionalCUDAGuard(int) {} };
  inline int getCurrentCUDAStream() { return 0; } }
inline int device_of(const torch::Tensor&) { return 0; }
#define DIVIDE_ROUND_UP(a, b) (((a) + (b) - 1) / (b))
#define WARP_SIZE 64
#define TORCH_CHECK(condition, ...) if (!(condition)) { std::puts("refused"); return; }
inline void note(const char* name, dim3 grid, dim3 block) {
  std::printf("%s %d %d %d %d %d %d\n", name, grid.x, grid.y, grid.z, block.x, block.y, block.z);
}
template <typename... T> void unused(T&&...) {}
"""
_AFTER = r"""
template <int PAGE, int DIM> void run(int requests, int heads, int heads_k, int width, int longest) {
  torch::Tensor out{{requests, heads, DIM}}, any{{1, 1, 1, 1, 1}}, table{{requests, width}};
  paged_attention_custom_launcher<int, int, vllm::Fp8KVCacheDataType::kAuto, PAGE, DIM, int, 256, false,
                                  MFMAType::F16, false>(
      out, any, any, any, out, any, any, heads_k, 1.0f, table, any, std::nullopt, longest, std::nullopt, any,
      any, std::nullopt);
}
int main() {
  int requests, heads, heads_k, dim, page, width, longest;
  while (std::scanf("%d %d %d %d %d", &requests, &heads, &heads_k, &dim, &page) == 5) {
    if (std::scanf("%d %d", &width, &longest) != 2) return 1;
    if (dim == 64 && page == 16) run<16, 64>(requests, heads, heads_k, width, longest);
    else if (dim == 64 && page == 32) run<32, 64>(requests, heads, heads_k, width, longest);
    else if (dim == 128 && page == 16) run<16, 128>(requests, heads, heads_k, width, longest);
    else if (dim == 128 && page == 32) run<32, 128>(requests, heads, heads_k, width, longest);
    else std::puts("refused");
    std::puts("end");
  }
}
"""


def program(source: str) -> str:
    """The launcher's text between stand-ins."""
    start, end = source.index(_BEGIN), source.index(_END)
    own = source[start:end]
    own = own[: own.rindex("template <")]

    def noted(found: re.Match[str]) -> str:
        return f'note("{found[1]}", {found[3]}, {found[4]}); unused('

    changed, launches = _LAUNCH.subn(noted, own)
    assert launches == 3, f"{launches} launches in the text"
    return _BEFORE + changed + _AFTER


def launches_of(header: Path, calls: list[tuple[int, ...]]) -> list[list[dict[str, Any]]]:
    """The launches of each call: requests, heads, KV heads, head dim, page, width of the table, longest."""
    with tempfile.TemporaryDirectory() as folder:
        code, binary = Path(folder, "host.cpp"), Path(folder, "host")
        code.write_text(program(header.read_text()))
        subprocess.run(["g++", "-std=c++17", "-w", "-o", str(binary), str(code)], check=True)
        lines = "".join(" ".join(map(str, call)) + "\n" for call in calls)
        done = subprocess.run([str(binary)], input=lines, capture_output=True, text=True, check=True)
    found: list[list[dict[str, Any]]] = [[]]
    for line in done.stdout.splitlines():
        if line == "end":
            found.append([])
            continue
        assert line != "refused", calls[len(found) - 1]
        name, *sizes = line.split()
        grid, block = list(map(int, sizes[:3])), list(map(int, sizes[3:]))
        found[-1].append({"kernel": name, "grid": grid, "block": block})
    assert len(found) == len(calls) + 1
    return found[:-1]
