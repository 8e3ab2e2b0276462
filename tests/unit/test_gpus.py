"""The GPU table: names as drivers print them, and numbers against the device properties in real traces."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from attnprof.dispatch.libraries import all_libraries, predict
from attnprof.errors import UsageError
from attnprof.gpus import GPUS, TENSOR_PEAKS, find_model, gpu_by_name, make_gpu, resident_limits
from attnprof.model import AttentionCall
from attnprof.trace.open_trace import open_trace
from tests.support.command import attnprof

TRACES = Path(__file__).parent.parent / "data" / "traces"


@pytest.mark.parametrize(
    ("name", "num_sms", "sm"),
    [
        ("NVIDIA H100 80GB HBM3", 132, (9, 0)),
        ("NVIDIA H100 PCIe", 114, (9, 0)),
        ("NVIDIA H100 NVL", 132, (9, 0)),
        ("NVIDIA H200", 132, (9, 0)),
        ("NVIDIA H20", 78, (9, 0)),
        ("NVIDIA H800", 132, (9, 0)),
        ("NVIDIA GH200 120GB", 132, (9, 0)),
        ("NVIDIA GH200 480GB", 132, (9, 0)),
        ("NVIDIA A100-SXM4-40GB", 108, (8, 0)),
        ("NVIDIA A100-SXM4-80GB", 108, (8, 0)),
        ("NVIDIA A100-PCIE-40GB", 108, (8, 0)),
        ("NVIDIA A100 80GB PCIe", 108, (8, 0)),
        ("NVIDIA A10G", 80, (8, 6)),
        ("NVIDIA RTX A6000", 84, (8, 6)),
        ("NVIDIA RTX 6000 Ada Generation", 142, (8, 9)),
        ("NVIDIA L40S", 142, (8, 9)),
        ("NVIDIA GeForce RTX 4090", 128, (8, 9)),
        ("NVIDIA GeForce RTX 4090 D", 114, (8, 9)),
        ("NVIDIA GeForce RTX 3060 Ti", 38, (8, 6)),
        ("NVIDIA GeForce RTX 5090", 170, (12, 0)),
        ("NVIDIA B200", 148, (10, 0)),
        ("NVIDIA GB200", 152, (10, 0)),
        ("NVIDIA B300 SXM6 AC", 148, (10, 3)),
        ("NVIDIA GB300", 152, (10, 3)),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 188, (12, 0)),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 188, (12, 0)),
        ("NVIDIA GB10", 48, (12, 1)),
        ("NVIDIA Thor", 20, (11, 0)),
        ("Tesla T4", 40, (7, 5)),
    ],
)
def test_a_name_as_the_driver_prints_it_is_known(name: str, num_sms: int, sm: tuple[int, int]) -> None:
    gpu = gpu_by_name(name)
    assert (gpu.num_sms, (gpu.sm_major, gpu.sm_minor)) == (num_sms, sm)


@pytest.mark.parametrize(
    ("short", "name"),
    [
        ("a100", "A100-SXM4-80GB"),
        ("h100", "H100 SXM5 80GB"),
        ("H200", "H200"),
        ("rtx 4090", "GeForce RTX 4090"),
        ("4090", "GeForce RTX 4090"),
        ("t4", "Tesla T4"),
        ("orin", "Jetson AGX Orin 64GB"),
        ("dgx spark", "GB10"),
    ],
)
def test_a_name_as_people_type_it_is_known(short: str, name: str) -> None:
    assert gpu_by_name(short).name == name


def test_no_two_rows_answer_to_one_name() -> None:
    spellings = [spelling for model in GPUS for spelling in (model.name, *model.aliases)]
    for model in GPUS:
        assert all(find_model(spelling) is model for spelling in (model.name, *model.aliases))
    assert len({find_model(spelling) for spelling in spellings}) == len(GPUS)


@pytest.mark.parametrize("path", sorted(TRACES.iterdir()), ids=lambda path: path.name)
def test_the_table_agrees_with_the_device_properties_in_a_trace(path: Path) -> None:
    for device in open_trace(path).info.devices:
        model = find_model(device.name or "")
        if model is not None and device.num_sms:
            assert model.num_sms == device.num_sms
            if not model.name.startswith("AMD"):  # a trace's capability of an AMD GPU is not taken for one
                assert model.sm == (device.sm_major, device.sm_minor)


def test_numbers_are_of_the_size_such_gpus_have() -> None:
    for model in GPUS:
        assert 8 <= model.num_sms <= (304 if model.name.startswith("AMD") else 192)
        assert 8 <= model.memory_gb <= 288
        assert 100 <= model.bandwidth_gb_s <= 8000
        assert model.l2_mb is None or 2 <= model.l2_mb <= 128
        assert model.source


# Dense operations of 16 bits, summed up in FP32, that the matrix units of an SM or compute unit do a cycle,
# by the architectures' whitepapers; GeForce cards and the L40 do half.
_PER_CYCLE = {
    (7, 5): 1024, (8, 0): 2048, (8, 6): 1024, (8, 9): 1024, (9, 0): 4096, (10, 0): 8192, (12, 0): 1024,
}  # fmt: skip
_AMD_PER_CYCLE = {(9, 0): 1024, (9, 4): 2048, (9, 5): 4096}


@pytest.mark.parametrize("name", TENSOR_PEAKS)
def test_a_peak_is_what_the_units_do_at_a_clock_that_such_gpus_have(name: str) -> None:
    model = find_model(name)
    assert model is not None
    peak = model.tensor_peak
    assert peak is not None
    assert peak.source
    amd = name.startswith("AMD")
    rate = (_AMD_PER_CYCLE if amd else _PER_CYCLE)[model.sm]
    rate //= 2 if name.startswith("GeForce") or name == "L40" else 1
    clock_ghz = peak.half * 1e3 / (model.num_sms * rate)
    assert 1.4 <= clock_ghz <= 2.65
    if peak.fp8 is not None:
        assert peak.fp8 == pytest.approx(2 * peak.half, rel=0.015)
    assert (peak.fp8 is not None) == (model.sm >= (9, 4) if amd else model.sm >= (8, 9))


def test_a_peak_is_told_of_the_types_that_the_units_take() -> None:
    told = {"h100": [989.4, 989.4, 1978.9, None], "t4": [None, 65, None, None], "a2000": [None] * 4}
    for name, peaks in told.items():
        model = find_model(name)
        assert model is not None
        assert [model.peak_tflop_s(dtype) for dtype in ("bf16", "fp16", "fp8", "fp32")] == peaks


@pytest.mark.parametrize(
    ("sm", "per_sm", "per_block", "threads", "blocks"),
    [
        ((7, 5), 64, 64, 1024, 16),
        ((8, 0), 164, 163, 2048, 32),
        ((8, 6), 100, 99, 1536, 16),
        ((8, 7), 164, 163, 1536, 16),
        ((8, 9), 100, 99, 1536, 24),
        ((9, 0), 228, 227, 2048, 32),
        ((10, 0), 228, 227, 2048, 32),
        ((10, 3), 228, 227, 2048, 32),
        ((11, 0), 228, 227, 1536, 24),
        ((12, 0), 100, 99, 1536, 24),
        ((12, 1), 100, 99, 1536, 24),
    ],
)
def test_limits_per_sm_are_those_of_the_programming_guide(
    sm: tuple[int, int], per_sm: int, per_block: int, threads: int, blocks: int
) -> None:
    gpu = make_gpu("any", *sm, 1)
    assert (gpu.smem_per_sm, gpu.smem_per_block_optin) == (per_sm * 1024, per_block * 1024)
    assert resident_limits(gpu) == (threads, blocks)


def test_an_unknown_name_is_told_close_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown GPU 'RTX 4095'; close: .*RTX 40"):
        gpu_by_name("RTX 4095")


def test_a_gpu_that_is_too_old_shows_the_librarys_refusal() -> None:
    done = attnprof("explain", "--seqlen-k", "4096", "--gpu", "t4")
    assert done.code == 0
    assert "refuses this call" in done.out
    assert "FlashAttention only supports Ampere GPUs or newer." in done.out


def test_the_list_fits_a_terminal_and_is_data_too() -> None:
    table = attnprof("gpus").out
    assert max(map(len, table.splitlines())) <= 100
    assert "…" not in table
    rows = json.loads(attnprof("gpus", "--format", "json").out)
    assert len(rows) == len(GPUS)
    assert all(row["num_sms"] > 0 and math.isfinite(row["bandwidth_gb_s"]) for row in rows)


@pytest.mark.parametrize(
    ("name", "units", "lds_kib", "bandwidth"),
    [
        ("AMD Instinct MI210", 104, 64, 1638),
        ("AMD Instinct MI250X", 110, 64, 1638),
        ("AMD Instinct MI300X", 304, 64, 5300),
        ("AMD Instinct MI325X", 304, 64, 6000),
        ("AMD Instinct MI355X", 256, 160, 8000),
    ],
)
def test_amd_gpus_have_compute_units_and_lds(name: str, units: int, lds_kib: int, bandwidth: int) -> None:
    gpu, model = gpu_by_name(name), find_model(name)
    assert model is not None
    assert (gpu.vendor, gpu.units, gpu.num_sms, gpu.smem_per_sm) == ("amd", "CUs", units, lds_kib * 1024)
    assert model is not None
    assert model.bandwidth_gb_s == bandwidth
    assert find_model(name.removeprefix("AMD Instinct ")) is model


def test_gfx90a_is_no_hopper() -> None:
    assert make_gpu("AMD Instinct MI210", 9, 0, 104).vendor == "amd"
    assert make_gpu("NVIDIA H100 80GB HBM3", 9, 0, 132).vendor == "nvidia"


NVIDIA_LIBRARIES = sorted(name for name, each in all_libraries().items() if each.vendor == "nvidia")


@pytest.mark.parametrize("gpu", ["mi210", "mi250x", "mi300x", "mi325x", "mi355x"])
@pytest.mark.parametrize("library", NVIDIA_LIBRARIES)
def test_libraries_of_nvidia_gpus_are_refused_on_amd_ones(library: str, gpu: str) -> None:
    call = AttentionCall(library, "varlen_fwd", 1, 1, 4096, 28, 4, 128)
    with pytest.raises(
        UsageError, match=f"{library} is not predicted on AMD Instinct {gpu.upper()}: its rules"
    ):
        predict(call, gpu_by_name(gpu))


def test_the_refusal_is_one_sentence_on_the_command_line() -> None:
    done = attnprof("predict", "--library", "torch", "--gpu", "mi300x", "--seqlen-k", "4096")
    assert done.code == 2
    assert "torch is not predicted on AMD Instinct MI300X: its rules are those of NVIDIA GPUs" in done.err


def test_each_amd_row_names_its_source() -> None:
    sources = {model.source for model in GPUS if model.name.startswith("AMD")}
    assert sources == {"device properties", "ROCm GPU specifications"}


@pytest.mark.parametrize("command", ["report", "doctor", "check"])
def test_an_amd_gpu_is_known_whatever_index_its_kernels_carry(command: str) -> None:
    done = attnprof(command, str(TRACES / "torch_mi300x_aotriton.json"))
    assert "H100" not in done.out + done.err
    if command != "check":
        assert "AMD Instinct MI300X, 304 CUs" in done.out
    if command == "report":
        told = " ".join(done.out.split())
        assert "100.0 % of its GPU time" in told
        assert "aotriton" in told
        assert "torch is not predicted on AMD Instinct MI300X" in told
        assert "predicted for" not in told


def test_a_gpu_is_not_guessed_where_two_kinds_are_described(tmp_path: Path) -> None:
    trace = json.loads((TRACES / "torch_mi300x_aotriton.json").read_text())
    trace["deviceProperties"].append({"id": 1, "name": "AMD Instinct MI210", "numSms": 104})
    path = tmp_path / "two.json"
    path.write_text(json.dumps(trace))
    assert "the trace does not name" in attnprof("report", str(path)).out
