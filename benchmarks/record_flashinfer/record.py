"""Asks the programs for the launches of many calls and writes golden data."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.record_flashinfer.build import CUBINS, HEAD_DIMS, NEW, OLD
from benchmarks.record_flashinfer.calls import Call, Calls, trtllm_gen_calls

_ERROR = re.compile(r"^Error in function '\w+' at \S+: ")
_SYMBOL = re.compile(r"_ZN10flashinfer(\d+)")
_DTYPES = {
    ("BF16", "BF16", "BF16", "BF16"), ("FP16", "FP16", "FP16", "FP16"), ("E4M3", "E4M3", "E4M3", "BF16"),
}  # fmt: skip


def record(work: Path, folder: Path) -> None:
    """The four files of FlashInfer's launches and trtllm-gen kernels."""
    rows = [row for part in _parts(work) for row in part]
    _write(folder / f"flashinfer_host_{NEW}.jsonl.gz", map(json.dumps, rows))
    for version in (OLD, NEW):
        calls = trtllm_gen_calls(version)
        answers = list(_asked(work / f"trtllm_gen-{version}", calls))
        if version == NEW:  # whose own table may hold what the older lacks
            answers = [row for row in answers if row["expect"]["error"] is None]
        _write(folder / f"flashinfer_trtllm_gen_{version}.jsonl.gz", map(json.dumps, answers))
    table = next((work / CUBINS).rglob("fmha/trtllm-gen/include/flashInferMetaInfo.h"))
    _write(folder / f"trtllm_gen_kernels_{OLD}.csv.gz", _kernels(table.read_text()))


def _parts(work: Path) -> Iterable[Iterable[dict[str, Any]]]:
    calls = Calls()
    yield _asked(work / "plans_128", calls.sm90(250), work)
    yield _asked(work / "plans_128", calls.mla(300), work)
    for dim in HEAD_DIMS:
        yield _asked(
            work / f"decode_{dim}", [*calls.single_decode(dim, 300), *calls.batch_decode(dim, 250)], work
        )
    yield _asked(work / "prefill_128", calls.single_prefill(300), work)
    for dim in HEAD_DIMS[:2]:
        yield _asked(work / f"batch_prefill_{dim}", calls.batch_prefill(dim, 150), work)


def _asked(program: Path, calls: list[Call], work: Path | None = None) -> Iterable[dict[str, Any]]:
    arguments = [str(program), *([str(work / "registers.txt")] if work else [])]
    asked = "".join(call.line + "\n" for call in calls)
    done = subprocess.run(arguments, input=asked, capture_output=True, text=True, check=True)
    if done.stderr:
        raise SystemExit(done.stderr[:2000])
    for call, line in zip(calls, done.stdout.splitlines(), strict=True):
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


def _base(symbol: str) -> str:
    """The name of a template without its arguments, which are not told."""
    found = _SYMBOL.match(symbol)
    if found:
        return "flashinfer::" + symbol[found.end() : found.end() + int(found[1])]
    return "fmhaReductionKernel" if "fmhaReductionKernel" in symbol else symbol


def _kernels(table: str) -> Iterable[str]:
    """name, step_q, step_kv, threads, groups_tokens of paged dense kernels of the usual dtypes."""
    yield "name,step_q,step_kv,threads,groups_tokens"
    rows = (line.strip().strip("{},").split(",") for line in table.splitlines() if line.startswith("{ DATA"))
    found = []
    for row in rows:
        field = [one.strip() for one in row]
        dtypes = tuple(field[at].removeprefix("DATA_TYPE_") for at in (0, 2, 3, 4))
        layout, mask, sage, sparse, skips = (field[at] for at in (18, 20, 24, 32, 33))
        if dtypes in _DTYPES and (layout, sage, sparse, skips) == ("2", "0", "0", "false") and mask != "3":
            groups = int(field[29] == "true")
            found.append(f"{field[15].strip(chr(34))},{field[7]},{field[8]},{field[17]},{groups}")
    yield from sorted(found)


def _write(path: Path, lines: Iterable[str]) -> None:
    text = "".join(line + "\n" for line in lines)
    with path.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(text.encode())
    print(f"{path.name}: {text.count(chr(10))} lines")
