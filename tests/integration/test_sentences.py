"""The sentences that commands print: each with an input of which it is true and one of which it is not.

A row is the sentence, the command with ``{}`` for its input, an input that shows what the sentence rests on,
and one that differs in just that. The first prints it, the second does not.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, KernelLaunch
from tests.spoil.scenes import Scene, SceneCall, launches_of
from tests.spoil.traces import write
from tests.support.build_trace import TraceBuilder
from tests.support.command import attnprof
from tests.support.generated_run import calls_only_run, generated_run

CASES = Path(__file__).resolve().parent.parent / "data" / "cases"
GEMM = "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu>(Params)"
STRANGE = "my_company_mixer_v7"
H100 = gpu_by_name("h100")
CALL = AttentionCall("flash_attn", "fwd", 1, 1, 1, 28, 4, 128, causal=True)


def scene(prompt: int, steps: int = 3, *, without: int = -1) -> Scene:
    """A generation on two layers; step ``without`` launches no attention."""
    each = [("prefill", replace(CALL, seqlen_q=prompt, seqlen_k=prompt))]
    each += [("decode", replace(CALL, seqlen_k=prompt + step)) for step in range(1, steps + 1)]
    calls = tuple(
        SceneCall(0, step, phase, layer, call, () if step == without else launches_of(call, H100, "2.8.3"))
        for step, (phase, call) in enumerate(each)
        for layer in range(2)
    )
    return Scene("flash_attn", "2.8.3", H100, "generation", (0, 0), "own", "nsys", "none", calls)


def export(
    folder: Path, *names: str, graphs: int = 0, gpu: bool = True, lost: str = "", domain: bool = False
) -> Path:
    """An nsys export with these kernels, and CUDA graphs recorded whole. ``lost``: what nsys says it lost."""
    made = TraceBuilder()
    if gpu:
        made.add("TARGET_INFO_GPU", vmId=1, id=0, name="H100", smCount=132, computeMajor=9, computeMinor=0)
    made.call(10, 20, 900, name="cudaDeviceSynchronize_v3020")
    for number, name in enumerate(names, start=1):
        if name != STRANGE or gpu:  # without a GPU's row also without a launch
            made.call(100 * number, 100 * number + 10, number)
        made.kernel(name, 100 * number + 20, 100 * number + 80, number, grid=(1, 1, 28))
    for number in range(graphs):
        made.add(
            "CUPTI_ACTIVITY_KIND_GRAPH_TRACE", start=9000 + number, end=9500, deviceId=0, contextId=1,
            streamId=7, correlationId=900 + number, globalPid=7 << 24 | 1 << 48, graphId=1, graphExecId=1,
        )  # fmt: skip
    if lost:
        made.add("DIAGNOSTIC_EVENT", severity=1, text=lost, timestamp=1, timestampType=1, source=1)
    if domain:
        made.domain("mine", 3)
    return made.write(folder / "t.sqlite")


def eager(folder: Path, graphs: int, *, gpu: bool = True) -> Path:
    (launch,) = launches_of(replace(CALL, seqlen_q=64, seqlen_k=64), H100, "2.8.3")
    return export(folder, launch.kernel, GEMM, graphs=graphs, gpu=gpu)


def job(folder: Path, *ranks: Callable[[Path], Path]) -> Path:
    """A folder with a trace per rank."""
    for number, rank in enumerate(ranks):
        (folder / "made").mkdir(parents=True, exist_ok=True)
        rank(folder / "made").rename(folder / f"rank{number}.sqlite")
        for left in (folder / "made").iterdir():
            left.unlink()
        (folder / "made").rmdir()
    return folder


def generation(prompt: int, steps: int = 3, without: int = -1) -> Callable[[Path], Path]:
    return lambda folder: write(scene(prompt, steps, without=without), folder)


def slow(folder: Path) -> Path:
    return export(folder, *[GEMM] * 20)


def wrong(launches: list[KernelLaunch]) -> list[KernelLaunch]:
    return [replace(one, grid=(one.grid[0] + 1, *one.grid[1:])) for one in launches]


def broken(folder: Path) -> Path:
    (folder / "t.sqlite").write_bytes(b"SQLite format 3\0")
    return folder / "t.sqlite"


def program(lines: str) -> Callable[[Path], Path]:
    def written(folder: Path) -> Path:
        (folder / "program.py").write_text(lines)
        return folder / "program.py"

    return written


ONE_CALL = """
import torch
q = torch.zeros(1, 2, 8, 16)
torch.nn.functional.scaled_dot_product_attention(q, q, q)
"""
INPUTS: dict[str, Callable[[Path], Path]] = {
    "short keys": generation(100),
    "long keys": generation(3000),
    "prefill alone": generation(100, 0),
    "bare step": generation(100, 4, without=2),
    "whole steps": generation(100, 4),
    "no kernel": export,
    "gemm": lambda folder: export(folder, GEMM),
    "gemm, unknown SMs": lambda folder: export(folder, GEMM, gpu=False),
    "unknown kernel": lambda folder: export(folder, GEMM, STRANGE),
    "kernel without launch": lambda folder: export(folder, GEMM, STRANGE, gpu=False),
    "lost events": lambda folder: export(folder, GEMM, lost="Some CUPTI events might be missing."),
    "domain without range": lambda folder: export(folder, GEMM, domain=True),
    "attention, unknown SMs": lambda folder: eager(folder, 0, gpu=False),
    "graphs alone": lambda folder: export(folder, graphs=2),
    "graphs and gemm": lambda folder: export(folder, GEMM, graphs=2),
    "graphs and attention": lambda folder: eager(folder, 2),
    "attention": lambda folder: eager(folder, 0),
    "not modelled": lambda _: CASES / "F4_unmodelled_plus_unobserved.json",
    "amd": lambda _: CASES / "F1_aotriton_attn_fwd.json",
    "fa3": lambda _: CASES / "F15_fa3_upstream_names.json",
    "program": program("print(1)"),
    "failing program": program("raise SystemExit(4)"),
    "program with a call": program(ONE_CALL),
    "recorded": lambda folder: generated_run(folder, range(400, 403), name="recorded"),
    "one wrong": lambda folder: generated_run(folder, range(400, 403), spoil={3: wrong}, name="wrong"),
    "calls alone": lambda _: calls_only_run("calls", range(400, 403)),
    "alike ranks": lambda folder: job(folder, generation(100), generation(100)),
    "unlike ranks": lambda folder: job(folder, generation(100), generation(3000)),
    "a rank longer": lambda folder: job(folder, generation(100), generation(100, 5)),
    "a rank without attention": lambda folder: job(folder, generation(100), generation(100), slow),
    "a rank unreadable": lambda folder: job(folder, generation(100), generation(100), broken),
    "a rank alone": lambda folder: job(folder, generation(100), broken),
    "uneven ranks": lambda folder: job(folder, lambda f: export(f, GEMM), slow),
}

IMPORT = "import {} -o seen -f"
RUN = "run --capture none -o ran -f -- python {}"
ROWS: list[tuple[str, str, str, str]] = [
    # check
    ("the trace holds no GPU kernels", "check {}", "no kernel", "gemm"),
    ("the one kernel in the trace is no attention kernel", "check {}", "gemm", "attention"),
    ("2 CUDA graph launches were recorded whole", "check {}", "graphs and attention", "attention"),
    ("nothing was compared: arguments not recorded", "check {}", "attention", "recorded"),
    ("nothing was compared: 1 arguments not recorded, 1 not modelled",
     "check {}", "not modelled", "attention"),
    ("6 of 6 attention calls compared, none contradicts the dispatch rules",
     "check {}", "recorded", "one wrong"),
    ("FAILED: 1 of 6 attention calls", "check {}", "one wrong", "recorded"),
    ("compared 6 of 6 calls: 6 match", "check {}", "recorded", "one wrong"),
    ("OK: 1 attention call, all as expected",
     "check {} --expect flash", "attention", "graphs and attention"),
    ("all as expected", "check {} --expect-splits 1", "short keys", "long keys"),
    ("all as expected", "check {} --expect-splits 1", "attention", "fa3"),
    ("does not show how many splits it ran", "check {} --expect-splits 1", "fa3", "attention"),
    ("attention may have run as plain GEMMs", "check {} --expect flash", "gemm", "graphs and gemm"),
    ("step 2 ran its other kernels, but no attention", "check {}", "bare step", "whole steps"),
    ("there is no attention call in decode", "check {} --phase decode", "prefill alone", "short keys"),
    ("some call launches exactly this", "check {}", "attention", "recorded"),
    # report
    ("no GPU kernel was observed: every dispatch shown is a prediction",
     "report {}", "calls alone", "recorded"),
    ("none: no GPU kernel was observed", "report {}", "no kernel", "graphs alone"),
    ("Decode never splits the keys: it runs", "report {}", "short keys", "long keys"),
    ("Decode splits the keys in", "report {}", "long keys", "short keys"),
    ("faster attention kernels save no more", "report {}", "attention", "graphs and attention"),
    ("CUDA graphs recorded whole: what of it is attention is not known",
     "report {}", "graphs and attention", "attention"),
    ("if each step added a key, the first decode step held", "report {}", "long keys", "prefill alone"),
    ("the trace does not state the GPU's SM count", "report {}", "attention, unknown SMs", "attention"),
    ("of 50.0 % the module is not recorded", "report {}", "attention", "unknown kernel"),
    ("Decode makes", "report {}", "recorded", "calls alone"),
    ("of K and V, step 3 reads", "report {}", "recorded", "attention"),
    ("4 KiB more per token", "report {}", "recorded", "attention"),
    ("not modelled: torch is not predicted on AMD Instinct MI300X", "report {}", "amd", "attention"),
    ("AMD Instinct MI300X, 304 CUs", "report {}", "amd", "attention"),
    # doctor, of a trace
    ("attention ran as plain GEMMs, or not at all", "doctor {}", "gemm", "unknown kernel"),
    ("1 kernel it cannot place may be", "doctor {}", "unknown kernel", "gemm"),
    ("outside the CUDA graphs, whose kernels are hidden", "doctor {}", "graphs and gemm", "gemm"),
    ("2, each with its launch", "doctor {}", "unknown kernel", "kernel without launch"),
    ("1 of them have no launching call", "doctor {}", "kernel without launch", "unknown kernel"),
    ("none: kernels get no phase, step or layer", "doctor {}", "gemm", "short keys"),
    ("nsys reports none", "doctor {}", "gemm", "lost events"),
    ("nsys reports none", "doctor {}", "gemm", "fa3"),
    ("nothing was annotated, or nvtx is too new", "doctor {}", "domain without range", "gemm"),
    ("split counts cannot be checked", "doctor {}", "gemm, unknown SMs", "gemm"),
    ("none, and no attention call: nothing to check", "doctor {}", "no kernel", "gemm"),
    # import
    ("16 kernels, 12 ranges, from nsys", IMPORT, "short keys", "long keys"),
    ("from torch.profiler", IMPORT, "amd", "attention"),
    ("note: 2 CUDA graph launches were recorded whole", IMPORT, "graphs and attention", "attention"),
    ("note: nsys says: Some CUPTI events might be missing", IMPORT, "lost events", "gemm"),
    ("not one range was recorded", IMPORT, "domain without range", "gemm"),
    ("nsys recorded no CUDA kernel", IMPORT, "no kernel", "gemm"),
    # run
    ("note: the program ended with exit code 4", RUN, "failing program", "program"),
    ("note: no attention call was recorded", RUN, "program", "program with a call"),
    ("ran: 1 attention call", RUN, "program with a call", "program"),
    # names
    ("holds no attention kernel that attnprof knows", "names {}", "gemm", "attention"),
    ("not Is_causal", "names {}", "short keys", "attention"),
    ("fwd main 6 ", "names {}", "short keys", "attention"),
    ("attn_fwd aotriton aotriton_fwd main 1 nothing", "names {}", "amd", "attention"),
    # a folder of ranks
    ("the same on all ranks, kernel by kernel and split by split",
     "report {} --workers 1", "alike ranks", "unlike ranks"),
    ("the same on all ranks", "report {} --workers 1", "alike ranks", "a rank without attention"),
    ("the same on all ranks", "report {} --workers 1", "alike ranks", "a rank unreadable"),
    ("the same on all ranks, in the steps and layers that they share",
     "report {} --workers 1", "a rank longer", "alike ranks"),
    ("no attention call, the others do", "report {} --workers 1", "a rank without attention", "alike ranks"),
    ("one rank alone has attention calls", "report {} --workers 1", "a rank alone", "alike ranks"),
    ("fewer than two ranks hold kernels", "report {} --workers 1", "a rank alone", "alike ranks"),
    ("no rank's kernels take 5 % longer", "report {} --workers 1", "alike ranks", "uneven ranks"),
]  # fmt: skip

SAME, OTHER = "short keys", "long keys"
PAIRS: list[tuple[str, tuple[str, str], tuple[str, str]]] = [
    ("EQUAL in all 4 shared steps (8 shared calls)", (SAME, SAME), (SAME, OTHER)),
    ("gives the outputs of the shared steps no reason to differ", (SAME, SAME), (SAME, OTHER)),
    ("gives the outputs of the shared steps no reason to differ", (SAME, SAME), ("fa3", "fa3")),
    ("3 calls of 3 do not tell how often they split", ("fa3", "fa3"), (SAME, SAME)),
    ("2 calls of 2 ran kernels whose names do not state the tile", ("not modelled",) * 2, (SAME, SAME)),
    ("gives the outputs of the shared steps no reason to differ", (SAME, SAME), ("not modelled",) * 2),
    ("DIFFERS in", (SAME, OTHER), (SAME, SAME)),
    ("cannot be compared: no attention call", ("gemm", "gemm"), (SAME, SAME)),
    ("the runs share neither steps nor kernels", ("no kernel", "no kernel"), (SAME, SAME)),
]

# Commands that take a call: the sentence, what makes it true, what makes it false.
VARLEN = "explain --entry varlen_fwd --seqlen-k 8192 --gpu h100"
CUDNN = "names --kernel cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_{}_4x1x1_kernel0_0"
ASKED: list[tuple[str, str, str]] = [
    ("this call is not split", "explain --seqlen-k 64 --gpu h100", "explain --seqlen-k 8192 --gpu h100"),
    ("this call is split", "explain --seqlen-k 8192 --gpu h100", "explain --seqlen-k 64 --gpu h100"),
    ("such a call is never split", f"{VARLEN} --alibi",
     f"{VARLEN} --alibi --library vllm_flash_attn --version fa2 --page-block-size 16"),
    ("Splitting is not implemented with dropout", "explain --seqlen-k 9000 --dropout-p 0.1",
     "explain --seqlen-k 9000"),
    ("refuses this call, so nothing is launched", "explain --seqlen-k 9 --dropout-p 1.0",
     "explain --seqlen-k 9 --dropout-p 0.9"),
    ("there are no keys", "explain --seqlen-k 0", "explain --seqlen-k 1"),
    ("cannot be launched", "explain --seqlen-k 64 --batch 70000", "explain --seqlen-k 64 --batch 60000"),
    ("takes its math backend (flash is not taken: sm 7.5", "explain --library torch --seqlen-k 64 --gpu t4",
     "explain --library torch --seqlen-k 64 --seqlen-q 64 --heads 8 --gpu a100"),
    ("not predicted: those of the math backend", "predict --library torch --seqlen-k 64 --gpu t4",
     "predict --library torch --seqlen-k 64 --seqlen-q 64 --heads 8 --gpu a100"),
    ("304 CUs", "explain --library aiter --seqlen-k 64 --gpu mi300x", "explain --seqlen-k 64"),
    ("its rules are those of NVIDIA GPUs", "predict --seqlen-k 64 --gpu mi300x", "predict --seqlen-k 64"),
    ("the order of summation does not depend on the batch",
     "sweep --seqlen-k 1:64 --batch 1:4 --invariance", "sweep --seqlen-k 1:900 --batch 1:64:21 --invariance"),
    ("order of summation depends on the batch:",
     "sweep --seqlen-k 1:900 --batch 1:64:21 --invariance", "sweep --seqlen-k 1:64 --batch 1:4 --invariance"),
    ("values up to 64 keys apart", "sweep --seqlen-k 1:640:64", "sweep --seqlen-k 1:640"),
    ("block_m 64", CUDNN.format("64x64x128"), CUDNN.format("128x128x64")),
    ("it stays at", "explain --seqlen-k 120000 --gpu h20 --batch 2", "explain --seqlen-k 64"),
    ("The next change comes with", "explain --seqlen-k 64", "explain --seqlen-k 120000 --gpu h20 --batch 2"),
]  # fmt: skip


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], str]]:
    """What a command says of an input, on one line; each is asked once."""
    paths: dict[str, str] = {}
    answers: dict[tuple[str, ...], str] = {}
    with pytest.MonkeyPatch.context() as patch:
        runs = str(tmp_path_factory.mktemp("runs"))

        def ask(command: str, *names: str) -> str:
            key = (command, *names)
            if key not in answers:
                patch.setenv("ATTNPROF_RUNS", runs)
                for name in names:
                    if name not in paths:
                        paths[name] = str(INPUTS[name](tmp_path_factory.mktemp("input")))
                words = shlex.split(command.format(*(shlex.quote(paths[name]) for name in names)))
                done = attnprof(*words)
                answers[key] = " ".join((done.out + done.err).split())
            return answers[key]

        yield ask


@pytest.mark.parametrize(("sentence", "command", "true", "false"), ROWS)
def test_a_sentence_on_a_trace_is_printed_where_it_is_true_and_nowhere_else(
    told: Callable[..., str], sentence: str, command: str, true: str, false: str
) -> None:
    assert sentence in told(command, true)
    assert sentence not in told(command, false)


@pytest.mark.parametrize(("sentence", "true", "false"), PAIRS)
def test_a_sentence_on_two_traces(
    told: Callable[..., str], sentence: str, true: tuple[str, str], false: tuple[str, str]
) -> None:
    assert sentence in told("diff {} {}", *true)
    assert sentence not in told("diff {} {}", *false)


@pytest.mark.parametrize(("sentence", "true", "false"), ASKED)
def test_a_sentence_on_a_call(told: Callable[..., str], sentence: str, true: str, false: str) -> None:
    assert sentence in told(true)
    assert sentence not in told(false)
