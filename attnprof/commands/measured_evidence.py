"""Reads what benchmarks.gpu_evidence timed on a GPU: split counts and peaks of its evidence.json."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnprof.errors import CannotTellError, UsageError

if TYPE_CHECKING:
    from attnprof.analysis.measured_peaks import MeasuredPeaks
    from attnprof.analysis.measured_splits import MeasuredSplits
    from attnprof.model import Gpu

NAME = "evidence.json"
_NUMBER = (int, float)
_CALL = {
    "library": str, "entry": str, "seqlen_q": int, "num_heads": int, "num_heads_k": int, "head_dim": int,
    "dtype": str,
}  # fmt: skip
_ROW = {"batch": int, "seqlen_k": int, "us_by_num_splits": {"*": _NUMBER}, "bytes_per_s": _NUMBER}
_GPU = {"name": str, "sm_major": int, "sm_minor": int, "num_sms": int}
_SHAPE = {
    "rehearsal": str,
    "date": str,
    "environment": {"gpu": _GPU},
    "steps": {
        "splitting": {
            "forced_by": str, "version": str, "call": _CALL, "copy_bytes_per_s": _NUMBER, "rows": [_ROW],
        },
        "peaks": {"copy_bytes_per_s": _NUMBER, "matmul_flops_per_s": {"*": _NUMBER}},
    },
}  # fmt: skip


def read_measured(path: Path) -> list[MeasuredSplits]:
    """Every call that was timed, of a file or of a folder with one.

    Raises UsageError for what is no such file, CannotTellError where it is of a rehearsal or says too little.
    """
    return _measured(*_read(path))


def read_peaks(path: Path) -> MeasuredPeaks:
    """What the card reached at its best, of a file or a folder with one; raises as :func:`read_measured`."""
    from attnprof.analysis.measured_peaks import MeasuredPeaks

    found, file = _read(path)
    step = (found.get("steps") or {}).get("peaks") or {}
    gpu = (found.get("environment") or {}).get("gpu") or {}
    copied = step.get("copy_bytes_per_s")
    flops = step.get("matmul_flops_per_s") or {}
    if _lacks(gpu, _GPU) or not (copied or flops):
        raise CannotTellError(
            f"{file} does not say what which GPU reached",
            hint="measure again: python -m benchmarks.gpu_evidence --only peaks",
        )
    reached = {dtype: each / 1e12 for dtype, each in flops.items() if each}
    date = found.get("date") or "undated"
    return MeasuredPeaks(_gpu(gpu), copied / 1e9 if copied else None, reached, date, file.name)


def _read(path: Path) -> tuple[dict[str, Any], Path]:
    """What the file holds, and the file."""
    from attnprof.files.untrusted import read_json, require_shape

    file = path / NAME if path.is_dir() else path
    try:
        found = read_json(file)
        require_shape(found, _SHAPE, NAME)
        if not isinstance(found, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--measured {path} cannot be read: {error}",
            hint=f"give the {NAME} of python -m benchmarks.gpu_evidence, or its folder",
        ) from error
    if found.get("rehearsal"):
        raise CannotTellError(f"{file} is of a rehearsal: no GPU was used", hint="measure on a GPU")
    return found, file


def _measured(found: dict[str, Any], file: Path) -> list[MeasuredSplits]:
    from attnprof.analysis.measured_splits import MeasuredSplits
    from attnprof.model import AttentionCall

    step = (found.get("steps") or {}).get("splitting") or {}
    gpu, call = (found.get("environment") or {}).get("gpu") or {}, step.get("call") or {}
    if _lacks(gpu, _GPU) or _lacks(call, _CALL) or not step.get("version"):
        raise CannotTellError(
            f"{file} does not say which call it timed on which GPU",
            hint="measure again: python -m benchmarks.gpu_evidence --only splitting",
        )
    rows = [row for row in step.get("rows") or () if not _lacks(row, _ROW) and _timed(row)]
    return [
        MeasuredSplits(
            AttentionCall(
                batch=row["batch"], seqlen_k=row["seqlen_k"], **{name: call[name] for name in _CALL}
            ),
            _gpu(gpu),
            step["version"],
            tuple(sorted((int(count), float(us)) for count, us in _timed(row))),
            row["bytes_per_s"],
            step.get("copy_bytes_per_s"),
            step.get("forced_by") or "",
            found.get("date") or "undated",
            file.name,
        )
        for row in rows
    ]


def _gpu(facts: dict[str, Any]) -> Gpu:
    """The GPU of an environment, by the table's name where the table has it."""
    from attnprof.gpus import find_model, make_gpu

    model = find_model(facts["name"])
    name = model.name if model else facts["name"]
    return make_gpu(name, facts["sm_major"], facts["sm_minor"], max(1, facts["num_sms"]))


def _timed(row: dict[str, Any]) -> list[tuple[str, float]]:
    return [(count, us) for count, us in row["us_by_num_splits"].items() if count.isdecimal() and us > 0]


def _lacks(value: dict[str, Any], shape: dict[str, Any]) -> bool:
    return any(value.get(name) is None for name in shape)
