"""The GPU evidence command: its own logic, on recorded data and on deliberate mismatches."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from time import monotonic

import numpy as np
import pytest

from attnprof import load
from attnprof.calls.call_files import parse_call
from attnprof.calls.records import CallRecord
from attnprof.check.check_run import Verdict
from attnprof.check.observed_calls import observe
from attnprof.check.observed_shape import ObservedShape
from attnprof.dispatch import predict
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall
from attnprof.trace.open_trace import open_trace
from attnprof.trace.timeline import build_timeline
from benchmarks.gpu_evidence import __main__ as command
from benchmarks.gpu_evidence import graphs
from benchmarks.gpu_evidence.calls import golden_call, matrix, shapes
from benchmarks.gpu_evidence.decode import sms_that_give
from benchmarks.gpu_evidence.evidence import Evidence, judge_call
from benchmarks.gpu_evidence.figures import plot_splitting
from benchmarks.gpu_evidence.package import with_caches
from benchmarks.gpu_evidence.sm_count import find_in
from benchmarks.gpu_evidence.story import in_order, replay, split_changes
from benchmarks.gpu_evidence.trim import correlations_of, trim_trace, trim_traces
from tests.conftest import TESTS
from tests.support.torch_trace import decode_trace

H200 = gpu_by_name("H200")
QWEN = TESTS / "data" / "traces" / "torch_h100_qwen1.5-0.5b_pytorch_flash.json.gz"


def ran(call: AttentionCall, version: str = "2.6.0") -> ObservedShape:
    launches = predict(call, H200, version).launches
    return ObservedShape(launches, tuple(parse_kernel_name(launch.kernel) for launch in launches))


def evidence_in(folder: Path) -> Evidence:
    return Evidence(folder, deadline=monotonic() + 60)


def test_without_a_gpu_one_line_says_so_and_the_exit_code_is_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "no_gpu", lambda: "torch sees no NVIDIA GPU")
    assert command.main(["--out", str(tmp_path / "out")]) == 3
    said = capsys.readouterr()
    assert said.err == "no evidence can be gathered here: torch sees no NVIDIA GPU\n"
    assert not (tmp_path / "out").exists()


def test_the_matrix_is_the_same_each_time_and_covers_the_boundaries() -> None:
    calls = matrix(2000, "torch")
    assert calls == matrix(2000, "torch")
    assert len(set(calls)) == 2000
    assert {call.entry for call in calls} == {"fwd", "varlen_fwd"}
    assert {call.seqlen_k % 128 for call in calls if call.head_dim == 128} >= {127, 0, 1}
    assert any(call.alibi for call in calls)
    assert any(call.dropout_p for call in calls)
    assert any(call.window != (-1, -1) for call in calls)
    assert {predict(call, H200, "2.6.0").num_splits for call in calls} >= {1, 2, 3, 4}


def test_cache_calls_are_ones_that_the_library_accepts() -> None:
    calls = with_caches(matrix(500, "flash_attn", seed=1))
    caches = [call for call in calls if call.entry == "fwd_kvcache"]
    assert len(caches) > 50
    assert {bool(call.page_block_size) for call in caches} == {True, False}
    refused = [call for call in caches if predict(call, H200).error]
    # Appending to a cache checks the folded query count against the capacity.
    assert all(call.seqlen_knew for call in refused)


def test_rows_are_read_back_as_the_calls_they_were_made_from() -> None:
    for call in with_caches(matrix(300, "flash_attn", seed=1)):
        again, gpu, version = parse_call(golden_call(call, H200, "2.8.3"))
        assert (replace(again, total_q=call.total_q), gpu, version) == (call, H200, "2.8.3")


def test_tensors_have_the_shapes_of_the_call() -> None:
    dense = AttentionCall("torch", "fwd", 2, 3, 5, 28, 4, 64)
    assert shapes(dense) == ((2, 3, 28, 64), (2, 5, 4, 64))
    assert shapes(replace(dense, entry="varlen_fwd")) == ((6, 28, 64), (10, 4, 64))


def test_what_ran_as_predicted_matches_and_what_did_not_is_written_in_full(tmp_path: Path) -> None:
    evidence = evidence_in(tmp_path)
    call = AttentionCall("torch", "fwd", 1, 1, 4096, 28, 4, 128)
    other = replace(call, seqlen_k=64)
    judged = [
        judge_call(call, H200, "2.6.0", ran(call), None),
        judge_call(call, H200, "2.6.0", ran(other), None),
        judge_call(call, H200, "2.6.0", None, "out of memory"),
        judge_call(replace(call, head_dim=260), H200, "2.6.0", None, "head_size must be a multiple of 8"),
    ]
    assert [one.verdict for one in judged] == [
        Verdict.MATCH,
        Verdict.WRONG_KERNEL,
        Verdict.MISSING,
        Verdict.MATCH,
    ]
    evidence.add_verdicts("matrix", "torch", judged)
    assert evidence.failed
    written = json.loads(evidence.path.read_text())["steps"]["matrix"]
    assert written["verdicts"]["torch"] == {"match": 2, "wrong kernel": 1, "missing": 1}
    assert written["mismatches"] == 2
    assert written["mismatched"][0]["call"]["seqlen_k"] == 4096
    assert written["mismatched"][0]["observed"][0]["grid"] == list(ran(other).launches[0].grid)


def test_each_step_is_on_disk_before_the_next_begins(tmp_path: Path) -> None:
    evidence = evidence_in(tmp_path)
    evidence.add("story", verdicts={"64 tokens": {"match": 1792}})
    assert json.loads(evidence.path.read_text())["steps"]["story"]["verdicts"] == {
        "64 tokens": {"match": 1792}
    }
    evidence.fail("matrix", "OutOfMemoryError: …")
    assert evidence.failed
    assert evidence.summary("story") == "1792 match; 0 mismatches"


def test_a_step_that_is_killed_while_it_writes_leaves_the_results_before_it(tmp_path: Path) -> None:
    """The process is killed inside the last step's own writing of evidence.json."""
    program = """if True:
        import os, signal, sys
        from benchmarks.gpu_evidence import __main__ as command, numerics, evidence

        def opened(path, *, force):
            file = real(path, force=force)
            inner = file.__enter__()
            inner.write(b"{")
            inner.flush()
            os.kill(os.getpid(), signal.SIGKILL)

        def killed(found):
            evidence.writing_file = opened
            found.add("numerics", reached=True)

        real, numerics.run = evidence.writing_file, killed
        command.main(["--rehearse", "--only", "peaks,numerics", "--out", sys.argv[1]])
    """
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=TESTS.parent, check=False)
    assert done.returncode == -signal.SIGKILL
    assert json.loads((tmp_path / "evidence.json").read_text())["steps"]["peaks"]["matrix_side"] == 64


def test_a_trimmed_trace_gives_the_same_attention_calls(tmp_path: Path) -> None:
    small = tmp_path / "small.json.gz"
    assert trim_trace(QWEN, small) < 60_000
    whole, cut = (observe(build_timeline(open_trace(path))) for path in (QWEN, small))
    assert len(whole) == len(cut) == 34
    assert np.array_equal(whole.duration, cut.duration)
    assert whole.shapes == cut.shapes
    with gzip.open(small, "rt") as file:
        assert {event["cat"] for event in json.load(file)["traceEvents"]} <= {"kernel", "cuda_runtime"}


def test_calls_without_ranges_are_matched_in_order_or_not_at_all() -> None:
    observed = observe(build_timeline(open_trace(QWEN)))
    records = [CallRecord(seq, None, "decode", 0, {}) for seq in range(100, 134)]
    assert in_order(observed, records).seq.tolist() == list(range(100, 134))
    with pytest.raises(ValueError, match="34 attention calls ran, 33 were recorded"):
        in_order(observed, records[:-1])


SEGMENTS = ([100, 120, 128, 129], [130, 256, 257, 400])


def story_segments(folder: Path) -> tuple[list[Path], list[CallRecord]]:
    """Two traces without ranges, of 2 layers x 4 steps, as the long story leaves them."""
    paths, records = [], []
    for number, lengths in enumerate(SEGMENTS):
        both_layers = [length for length in lengths for _ in range(2)]
        first = len(records)
        path = folder / f"segment-{number}.json"
        options = {"first": first, "ranged": False, "library": "torch", "version": "2.11.0"}
        paths.append(decode_trace(path, both_layers, **options))
        for seq, length in enumerate(both_layers, start=first):
            fields = sdpa_fields(seq, length) | {"seq": seq, "step": seq // 2, "phase": "decode"}
            records.append(CallRecord(seq, seq // 2, "decode", seq % 2, fields | {"layer": seq % 2}))
    return paths, records


def sdpa_fields(seq: int, seqlen_k: int) -> dict[str, object]:
    return {
        "library": "torch", "entry": "sdpa", "backend": "flash", "device": "cuda:0", "dtype": "bf16",
        "q": [1, 28, 1, 128], "k": [1, 4, seqlen_k, 128], "v": [1, 4, seqlen_k, 128], "mask": None,
        "causal": False, "dropout_p": 0.0,
    }  # fmt: skip


def test_a_story_in_segments_is_checked_call_by_call_and_kept_for_some_layers(tmp_path: Path) -> None:
    paths, records = story_segments(tmp_path)
    h100, seen, judged = gpu_by_name("h100"), [], []
    for number, path in enumerate(paths):
        mine = records[8 * number : 8 * number + 8]
        observed, checked = replay(path, mine, h100, "2.11.0", ranged=False)
        seen.append(observed)
        judged += checked
    assert [call.verdict for call in judged] == [Verdict.MATCH] * 16
    wanted = {record.seq for record in records if record.layer == 0}
    launches = [correlations_of(path, part, wanted) for path, part in zip(paths, seen, strict=True)]
    small = tmp_path / "small.json.gz"
    trim_traces(paths, small, launches)
    kept = [record for record in records if record.layer == 0]
    again, checked = replay(small, kept, h100, "2.11.0", ranged=False)
    assert [call.verdict for call in checked] == [Verdict.MATCH] * 8
    assert [change["num_splits"] for change in split_changes(kept, again)] == [1, 2, 3, 4]
    assert [change["seqlen_k"] for change in split_changes(kept, again)] == [100, 129, 257, 400]


def test_a_wrong_split_in_a_segment_is_found(tmp_path: Path) -> None:
    paths, records = story_segments(tmp_path)
    longer = [replace(r, fields=r.fields | {"k": [1, 4, 900, 128], "v": [1, 4, 900, 128]}) for r in records]
    _, checked = replay(paths[1], longer[8:], gpu_by_name("h100"), "2.11.0", ranged=False)
    assert {call.verdict for call in checked} == {Verdict.WRONG_NUM_SPLITS}


def test_traces_that_share_correlation_ids_are_not_merged(tmp_path: Path) -> None:
    paths, _ = story_segments(tmp_path)
    with pytest.raises(ValueError, match=r"segment-0.json repeats correlation ids"):
        trim_traces([paths[0], paths[0]], tmp_path / "out.json.gz", [None, None])


def test_an_sm_count_is_found_in_the_struct_behind_an_object_and_put_back() -> None:
    options = pytest.importorskip("torch._C._distributed_c10d").BroadcastOptions()
    options.rootRank = 132
    field = find_in(options, "rootRank")
    assert field is not None
    assert field.own == 132
    with field.told(78):
        assert options.rootRank == 78
    assert options.rootRank == 132


def test_the_sm_count_to_tell_is_one_that_gives_the_split_count() -> None:
    call = AttentionCall("torch", "fwd", 8, 1, 4096, 28, 4, 128)
    for wanted in (1, 2, 3, 4, 6):
        num_sms = sms_that_give(wanted, call, H200, "2.11.0")
        assert num_sms is not None
        assert predict(call, replace(H200, num_sms=num_sms), "2.11.0").num_splits == wanted
    assert sms_that_give(8, call, H200, "2.11.0") is None  # 8 leaves as many blocks per split as 7


def test_replays_that_differ_from_what_the_capture_chose_are_mismatches(tmp_path: Path) -> None:
    evidence = evidence_in(tmp_path)
    each = graphs._REPLAYS * graphs._LAYERS
    call = AttentionCall("torch", "fwd", 1, 1, 128, 28, 4, 128)
    chosen = [predict(replace(call, seqlen_k=n), H200, "2.11.0").num_splits for n in graphs._LENGTHS]
    seen = [splits for splits in chosen for _ in range(each)]
    graphs.compare(evidence, "torch_profiler", seen, H200, "2.11.0")
    assert not evidence.failed
    graphs.compare(evidence, "nsys_node_mode", [*seen[:-1], 77], H200, "2.11.0")
    assert evidence.failed
    assert evidence.results["steps"]["graphs"]["nsys_node_mode"][-1]["replayed_num_splits"] == {
        str(chosen[-1]): each - 1,
        "77": 1,
    }


def test_the_splitting_figure_is_drawn_from_the_rows(tmp_path: Path) -> None:
    rows = [
        {"batch": batch, "seqlen_k": length, "predicted_num_splits": 2, "best_num_splits": 4,
         "automatic_us": 9.0, "us_by_num_splits": {1: 20.0, 2: 9.0, 4: 7.0}, "left_on_the_table": 0.28}
        for batch in (1, 8) for length in (512, 4096)
    ]  # fmt: skip
    plot_splitting(rows, "a GPU", tmp_path / "splitting.png")
    assert (tmp_path / "splitting.png").stat().st_size > 10_000


def test_the_story_names_the_steps_at_which_the_split_count_changes() -> None:
    observed = observe(build_timeline(open_trace(QWEN)))
    records = [CallRecord(seq, seq, "decode", 0, {"k": [1, 4, 100 + seq, 64]}) for seq in range(34)]
    assert split_changes(records, in_order(observed, records)) == [
        {"step": 0, "seqlen_k": 100, "num_splits": 1}
    ]


def test_public_h100_traces_are_evidence_already() -> None:
    counts = load(QWEN).check().counts
    assert counts[Verdict.MATCH] == 24
    assert not any(verdict.failed for verdict in counts)
