"""Asks the programs for the launches of many calls and writes golden data."""

from __future__ import annotations

import gzip
import json
import re
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.record_flashinfer.build import (
    CUBINS,
    HEAD_DIMS,
    NEW,
    NEWEST,
    OLD,
    OLDEST,
    program_of,
    registers_of,
    table_of,
)
from benchmarks.record_flashinfer.calls import (
    Call,
    Calls,
    trtllm_gen_calls,
    trtllm_gen_mixed_calls,
    trtllm_gen_mla_calls,
    uniform_plans,
)

_ERROR = re.compile(r"^Error in function '\w+' at \S+: ")
_SYMBOL = re.compile(r"_ZN10flashinfer(\d+)")
_CRASHED = '{"error": "the program ended", "launches": []}'
_DTYPES = {
    ("BF16", "BF16", "BF16", "BF16"),
    ("FP16", "FP16", "FP16", "FP16"),
    ("E4M3", "E4M3", "E4M3", "BF16"),
}
_MIXED = {
    ("BF16", "E4M3", "E4M3", "BF16"), ("FP16", "E4M3", "E4M3", "FP16"), ("E4M3", "E2M1", "E2M1", "E4M3"),
}  # fmt: skip
_SPARSE = {("576", "512", "1"), ("512", "512", "2")}


def record(work: Path, folder: Path) -> None:
    """The files of FlashInfer's launches and trtllm-gen kernels."""
    rows, newest = ([row for part in _parts(work, version) for row in part] for version in (NEW, NEWEST))
    _write(folder / f"flashinfer_host_{NEW}.jsonl.gz", map(json.dumps, rows))
    told = (
        made
        for at, (row, made) in enumerate(zip(rows, newest, strict=True))
        if at % 4 == 0 or row["expect"] != made["expect"]
    )
    _write(folder / f"flashinfer_host_{NEWEST}.jsonl.gz", map(json.dumps, told))
    _write(folder / f"flashinfer_host_{OLDEST}.jsonl.gz", map(json.dumps, oldest_rows(work)))
    for version in (NEW, NEWEST):
        plans = _asked(program_of(work, "plans_128", version), uniform_plans(version, 500))
        _write(folder / f"flashinfer_uniform_{version}.jsonl.gz", map(json.dumps, map(_planned, plans)))
    for version in CUBINS:
        kinds = {"": trtllm_gen_calls(version)}
        if version in (NEW, OLD):  # 0.7.2 and 0.7.4 gave NEW's rows
            kinds["_mla"] = trtllm_gen_mla_calls(version)
            kinds["_mixed"] = trtllm_gen_mixed_calls(version)
        for kind, calls in kinds.items():
            answers = list(_asked(work / f"trtllm_gen-{version}", calls))
            if version not in (OLD, OLDEST):  # whose own table may hold what the older lacks
                answers = [row for row in answers if row["expect"]["error"] is None]
            _write(folder / f"flashinfer_trtllm_gen{kind}_{version}.jsonl.gz", map(json.dumps, answers))
    for version in (OLD, OLDEST):
        table = table_of(work, version).read_text()
        _write(folder / f"trtllm_gen_kernels_{version}.csv.gz", _kernels(table, version == OLDEST))


def _parts(work: Path, version: str) -> Iterable[Iterable[dict[str, Any]]]:
    calls, table = Calls(version), registers_of(work, version)

    def asked(part: str, made: list[Call]) -> Iterable[dict[str, Any]]:
        return _asked(program_of(work, part, version), made, table)

    yield asked("plans_128", calls.sm90(250))
    yield asked("plans_128", calls.mla(300))
    for dim in HEAD_DIMS:
        yield asked(f"decode_{dim}", [*calls.single_decode(dim, 300), *calls.batch_decode(dim, 250)])
    yield asked("prefill_128", calls.single_prefill(300))
    for dim in HEAD_DIMS[:2]:
        yield asked(f"batch_prefill_{dim}", calls.batch_prefill(dim, 150))


def oldest_rows(work: Path) -> Iterable[dict[str, Any]]:
    """Plans and paged batches of OLDEST."""
    calls, table = Calls(OLDEST), registers_of(work, OLDEST)
    plans = program_of(work, "plans_128", OLDEST)
    yield from _asked(plans, calls.sm90(250), table)
    yield from _asked(plans, calls.mla(300), table)
    for dim in HEAD_DIMS[:2]:
        program = program_of(work, f"batch_prefill_{dim}", OLDEST)
        yield from _asked(program, calls.batch_prefill(dim, 200), table)


def _planned(row: dict[str, Any]) -> dict[str, Any]:
    """A row of which the plan alone was asked."""
    return row | {"expect": {name: row["expect"][name] for name in ("error", "plan")}}


def _asked(program: Path, calls: list[Call], table: Path | None = None) -> Iterable[dict[str, Any]]:
    arguments = ["stdbuf", "-oL", str(program), *([str(table)] if table else [])]
    for call, line in zip(calls, _answers(arguments, [call.line for call in calls]), strict=True):
        answer = json.loads(line)
        for launch in answer["launches"]:
            launch["kernel"] = _base(launch["kernel"])
        plan = answer.get("plan", {})
        if "work_indptr" in plan:
            plan["num_work_items"] = plan.pop("work_indptr")[-1]
        for name in ("split_kv", "same_schedule"):
            if name in plan:
                plan[name] = bool(plan[name])
        answer["error"] = _ERROR.sub("", answer["error"]).strip() or None
        yield {"call": call.fields, "expect": answer}


def _answers(arguments: list[str], asked: list[str]) -> list[str]:
    """An answer per line; a call that upstream's code ends the program at is an error."""
    found: list[str] = []
    while len(found) < len(asked):
        lines = "".join(line + "\n" for line in asked[len(found) :])
        done = subprocess.run(arguments, input=lines, capture_output=True, text=True, check=False)
        if done.stderr or done.returncode not in (0, -signal.SIGSEGV):
            raise SystemExit(done.stderr[:2000])
        found += done.stdout.splitlines()
        if done.returncode:
            found.append(_CRASHED)
    return found


def _base(symbol: str) -> str:
    """The name of a template without its arguments, which are not told."""
    found = _SYMBOL.match(symbol)
    if found:
        return "flashinfer::" + symbol[found.end() : found.end() + int(found[1])]
    return "fmhaReductionKernel" if "fmhaReductionKernel" in symbol else symbol


def _kernels(table: str, oldest: bool) -> Iterable[str]:
    """name, step_q, step_kv, threads, groups_tokens of kernels of the usual dtypes.

    Paged dense ones, and those of separate Q, K and V and of the sparse MLA that a launcher asks for.
    ``oldest``: K and V have one dtype there, there is no sage attention, and of dense ones alone.
    """
    yield "name,step_q,step_kv,threads,groups_tokens"
    rows = (line.strip().strip("{},").split(",") for line in table.splitlines() if line.startswith("{ DATA"))
    found = []
    for row in rows:
        field = [one.strip() for one in row]
        if oldest:
            field[1:2] = ["", field[1], field[1]]
            field[24:24] = ["0"] * 4
        dtypes = tuple(field[at].removeprefix("DATA_TYPE_") for at in (0, 2, 3, 4))
        layout, mask, sage, sparse, skips = (field[at] for at in (18, 20, 24, 32, 33))
        dense = layout == "2" and sparse in ("0", "false")
        other = (layout, sparse) == ("0", "0") or (*field[10:12], sparse) in _SPARSE
        asked = dense or (other and not oldest)
        known = dtypes in _DTYPES or (dtypes in _MIXED and not oldest)
        if known and (sage, skips) == ("0", "false") and asked and mask != "3":
            groups = int(field[29] == "true")
            found.append(f"{field[15].strip(chr(34))},{field[7]},{field[8]},{field[17]},{groups}")
    yield from sorted(found)


def _write(path: Path, lines: Iterable[str]) -> None:
    text = "".join(line + "\n" for line in lines)
    with path.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(text.encode())
    print(f"{path.name}: {text.count(chr(10))} lines")
