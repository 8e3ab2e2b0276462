"""The registry: a library is its folder and one line, and every command asks the registry."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from attnprof.calls.records import CallRecord
from attnprof.check.check_run import Verdict, check
from attnprof.check.observed_calls import observe
from attnprof.check.recording import Recording
from attnprof.commands.trial_capture import try_capture
from attnprof.dispatch import libraries
from attnprof.dispatch.intervals import Interval
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.dispatch.names.template import template_difference
from attnprof.doctor.machine import examine_machine
from attnprof.errors import UsageError
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall
from attnprof.trace.open_trace import open_trace
from attnprof.trace.timeline import build_timeline
from tests.support.build_trace import TraceBuilder
from tests.support.command import attnprof
from tests.support.flash_attn3 import install_package
from tests.support.generated_run import H100, record_of
from tests.support.toy_attention.names import KERNEL

ROOT = Path(__file__).parents[2] / "attnprof"
TOY = ("--library", "toy", "--head-dim", "64", "--num-heads", "8")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line of the registry."""
    monkeypatch.setitem(libraries.LIBRARIES, "toy", "tests.support.toy_attention")
    parse_kernel_name.cache_clear()
    template_difference.__globals__["template_fields"].cache_clear()
    yield
    parse_kernel_name.cache_clear()
    template_difference.__globals__["template_fields"].cache_clear()


def toy_recording(folder: Path, grids: list[int], *, records: bool) -> Recording:
    """Calls of 2500 keys, launched with so many splits each."""
    builder = TraceBuilder()
    builder.add("TARGET_INFO_GPU", vmId=1, id=0, name="H100", smCount=132, computeMajor=9, computeMinor=0)
    builder.domain("attnprof", 1)
    made = []
    call = AttentionCall("toy", "fwd", 1, 1, 2500, 28, 4, 128, causal=True)
    for seq, splits in enumerate(grids):
        start = 1000 * (seq + 1)
        builder.call(start + 10, start + 20, seq + 1)
        name = f"void {KERNEL}<128>(Params)"
        builder.kernel(name, start + 30, start + 90, seq + 1, grid=(1, splits, 1), block=(128, 1, 1))
        builder.range("attn", start, start + 100, domainId=1, int64Value=seq)
        made.append(CallRecord(seq, None, "other", None, record_of(seq, 0, 0, call) | {"library": "toy"}))
    timeline = build_timeline(open_trace(builder.write(folder / "t.sqlite")))
    kept = made if records else []
    sms = {0: 132}
    return Recording(
        "t", "t", "complete", True, timeline, observe(timeline), kept, records, gpu=H100, sms_of_devices=sms
    )


@pytest.mark.usefixtures("toy")
def test_a_library_of_one_line_is_predicted_and_swept_and_explained() -> None:
    done = attnprof("predict", "--seqlen-k", "2500", *TOY, "--format", "json")
    assert json.loads(done.out)["num_splits"] == 5
    older = attnprof("predict", "--seqlen-k", "2500", *TOY, "--version", "1.0", "--format", "json")
    assert json.loads(older.out)["num_splits"] == 2
    swept = attnprof("sweep", "--seqlen-k", "1:2000:100", *TOY, "--format", "csv")
    assert swept.code == 0, swept.err
    assert swept.out.count(KERNEL) == 3  # one split up to 999 keys, two up to 1499, three up to 1999
    explained = attnprof("explain", "--seqlen-k", "2500", *TOY)
    assert "one per 500 keys" in " ".join(explained.out.split())
    assert attnprof("predict", "--seqlen-k", "1", *TOY, "--version", "3.0").code == 2


@pytest.mark.usefixtures("toy")
def test_its_kernels_are_known_by_name_and_read_back() -> None:
    signature = parse_kernel_name(f"void {KERNEL}<64>(Params)")
    assert (signature.library, signature.family, signature.kernel) == ("toy-attention", "toy_fwd", KERNEL)
    inferred = libraries.read_back(f"{KERNEL}<64>", (1, 3, 1), 132)
    assert inferred is not None
    assert inferred.seqlen_k == (Interval(1500, 1999),)
    assert template_difference(f"{KERNEL}<64>", f"{KERNEL}<128>") == "head_dim: ran 128, predicted 64"


@pytest.mark.usefixtures("toy")
def test_its_recorded_calls_are_checked(tmp_path: Path) -> None:
    result = check(toy_recording(tmp_path, [5, 4], records=True))
    assert [call.verdict for call in result.calls] == [Verdict.MATCH, Verdict.WRONG_GRID]
    assert (result.library, result.version) == ("toy", "2.0")


@pytest.mark.usefixtures("toy")
def test_the_doctor_tells_its_installed_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNPROF_NSYS", "/nowhere/nsys")
    examine = partial(examine_machine, try_capture=partial(try_capture, limit_s=1))
    assert "toy" not in {finding.what for finding in examine()}
    install_package(tmp_path / "site", "toy_attention", "1.0")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (found,) = [finding for finding in examine() if finding.what == "toy"]
    assert found.found == "1.0: its one launch is modelled"


def test_without_its_line_it_is_unknown() -> None:
    refused = attnprof("predict", "--seqlen-k", "2500", *TOY)
    assert (refused.code, "'toy' is not modelled" in refused.err) == (2, True)
    assert not parse_kernel_name(f"void {KERNEL}<64>(Params)").is_attention


@pytest.mark.parametrize("name", libraries.LIBRARIES)
def test_every_library_says_what_the_registry_asks(name: str) -> None:
    known = libraries.library(name)
    known.check_version(known.default_version)
    for entry in known.entries:
        call = AttentionCall(name, entry, 1, 1, 1024, 8, 8, 64, cache_seqlens=entry == "fwd_kvcache")
        gpu = H100 if known.vendor == "nvidia" else gpu_by_name("mi300x")
        prediction = libraries.predict(call, gpu)
        assert prediction.launches or prediction.error
        assert libraries.predict(replace(call), gpu, explain=True) == prediction
    with pytest.raises(UsageError):
        known.check_version("0.0.1")


COMMANDS = ("check", "explain", "sweep", "predict", "doctor")


def test_commands_and_checks_name_no_library() -> None:
    """Strings that are a library's name, outside dispatch/ and what records inside the program."""
    named: list[str] = []
    rooms = ("check", "analysis", "report", "doctor")
    files = [path for room in rooms for path in (ROOT / room).glob("*.py")]
    files += [ROOT / "commands" / f"{name}.py" for name in (*COMMANDS, "call_flags", "options")]
    for path in files:
        named += [
            f"{path.name}:{node.lineno} {node.value}"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and node.value in libraries.LIBRARIES
        ]
        folders = (folder for folder in libraries.LIBRARIES.values() if folder in path.read_text("utf-8"))
        named += [f"{path.name} {folder}" for folder in folders]
    # torch is also what runs every workload: the doctor looks at it as that
    assert [one for one in named if not one.endswith(" torch") or "machine.py" not in one] == []


def test_explaining_one_library_imports_the_rules_of_no_other() -> None:
    script = (
        "import sys\n"
        "from attnprof.cli import main\n"
        "sys.argv = ['attnprof', 'explain', '--seqlen-k', '4096']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([name for name in sys.modules if name.startswith('attnprof.dispatch.')], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    loaded = ast.literal_eval(done.stderr.splitlines()[-1])
    assert "attnprof.dispatch.flash_attn2.rules" in loaded
    for folder in ("flash_attn3", "torch_sdpa", "vllm_flash_attn"):
        for part in ("rules", "dispatch", "versions"):
            assert f"attnprof.dispatch.{folder}.{part}" not in loaded


def test_help_lists_the_libraries_and_imports_none() -> None:
    script = (
        "import sys\n"
        "from attnprof.cli import main\n"
        "sys.argv = ['attnprof', 'predict', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "bad = {'torch', 'numpy', 'pandas', 'matplotlib', 'attnprof.dispatch.library'} & set(sys.modules)\n"
        "sys.exit(repr(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in " ".join(done.stdout.split()) for name in libraries.LIBRARIES)


def test_the_public_imports_are_where_they_were() -> None:
    script = (
        "import attnprof\n"
        "from attnprof import load, predict\n"
        "from attnprof.dispatch import num_splits_heuristic\n"
        "from attnprof.dispatch.flash_attn3 import num_splits_heuristic as fa3, should_pack_gqa\n"
        "from attnprof.model import AttentionCall\n"
        "from attnprof.gpus import make_gpu\n"
        "call = AttentionCall('flash_attn', 'fwd', 1, 1, 4096, 28, 4, 128)\n"
        "gpu = make_gpu('x', 9, 0, 132)\n"
        "assert attnprof.predict(call, gpu).num_splits == predict(call, gpu).num_splits > 1\n"
        "assert num_splits_heuristic(1, 1, 1) == 1 and callable(load) and attnprof.__version__\n"
        "assert fa3(1, 132, 64) > 1 and should_pack_gqa(True, 1, 7, 64)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_library_without_fwd_is_asked_for_its_usual_entry() -> None:
    told = {
        name: libraries.entry_unless_given(name, "fwd") for name in ("flashinfer", "flash_mla", "flash_attn")
    }
    assert told == {"flashinfer": "batch_paged", "flash_mla": "fwd_kvcache", "flash_attn": "fwd"}
    assert libraries.entry_unless_given("flashinfer", "batch_mla") == "batch_mla"


@pytest.mark.parametrize(
    ("library", "entry", "gpu", "odd"),
    [
        ("flashinfer", "batch_decode", "h100", {"head_dim": 1}),
        ("flash_attn", "fwd", "h100", {"num_heads_k": 0}),
    ],
)
def test_a_size_that_nothing_can_be_shared_out_by_is_said(
    library: str, entry: str, gpu: str, odd: dict[str, int]
) -> None:
    sizes = {
        "batch": 2,
        "seqlen_q": 1,
        "seqlen_k": 100_000,
        "num_heads": 32,
        "num_heads_k": 8,
        "head_dim": 128,
    }
    call = AttentionCall(library, entry, **sizes | odd, causal=True)
    with pytest.raises(UsageError, match=rf"{library}'s rules do not hold for .* too small to be shared out"):
        libraries.predict(call, gpu_by_name(gpu))
    whole = AttentionCall(library, entry, **sizes, causal=True)
    assert libraries.predict(whole, gpu_by_name(gpu)).launches
