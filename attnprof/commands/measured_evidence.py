"""Reads what benchmarks.gpu_evidence timed on a GPU: the split counts of its evidence.json."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnprof.errors import CannotTellError, UsageError

if TYPE_CHECKING:
    from attnprof.analysis.measured_splits import MeasuredSplits

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
        }
    },
}  # fmt: skip


def read_measured(path: Path) -> list[MeasuredSplits]:
    """Every call that was timed, of a file or of a folder with one.

    Raises UsageError for what is no such file, CannotTellError where it is of a rehearsal or says too little.
    """
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
    return _measured(found, file)


def _measured(found: dict[str, Any], file: Path) -> list[MeasuredSplits]:
    from attnprof.analysis.measured_splits import MeasuredSplits
    from attnprof.gpus import find_model, make_gpu
    from attnprof.model import AttentionCall

    step = (found.get("steps") or {}).get("splitting") or {}
    gpu, call = (found.get("environment") or {}).get("gpu") or {}, step.get("call") or {}
    if _lacks(gpu, _GPU) or _lacks(call, _CALL) or not step.get("version"):
        raise CannotTellError(
            f"{file} does not say which call it timed on which GPU",
            hint="measure again: python -m benchmarks.gpu_evidence --only splitting",
        )
    model = find_model(gpu["name"])
    made = make_gpu(
        model.name if model else gpu["name"], gpu["sm_major"], gpu["sm_minor"], max(1, gpu["num_sms"])
    )
    rows = [row for row in step.get("rows") or () if not _lacks(row, _ROW) and _timed(row)]
    return [
        MeasuredSplits(
            AttentionCall(
                batch=row["batch"], seqlen_k=row["seqlen_k"], **{name: call[name] for name in _CALL}
            ),
            made,
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


def _timed(row: dict[str, Any]) -> list[tuple[str, float]]:
    return [(count, us) for count, us in row["us_by_num_splits"].items() if count.isdecimal() and us > 0]


def _lacks(value: dict[str, Any], shape: dict[str, Any]) -> bool:
    return any(value.get(name) is None for name in shape)
