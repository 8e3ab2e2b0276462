"""What was found, written to disk after every step: evidence.json and the files beside it."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from time import monotonic
from typing import Any

from attnprof.check.check_run import CheckedCall, Verdict, compare
from attnprof.check.observed_calls import ObservedShape
from attnprof.dispatch import predict
from attnprof.files.output import writing_file
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction

_FULL_MISMATCHES = 200  # as many are written in full; all are counted


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured. ``few`` and ``many`` are the new tokens of the two runs of the story."""

    layers: int = 28
    few: int = 64
    many: int = 512
    matrix_calls: int = 2000
    lengths: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
    repeats: int = 30
    matrix_side: int = 8192


REHEARSED = Scale(layers=2, few=4, many=108, matrix_calls=120, lengths=(256, 4096), repeats=2, matrix_side=64)
_REHEARSAL = "no GPU was used, every kernel here is made up from the prediction: evidence of nothing"


class Evidence:
    """The results so far. ``deadline`` is on the monotonic clock."""

    def __init__(
        self, out: Path, *, deadline: float, scale: Scale = Scale(), rehearsal: bool = False
    ) -> None:
        self.out, self.deadline, self.scale = out, deadline, scale
        self.path = out / "evidence.json"
        self.results: dict[str, Any] = {"date": datetime.now(timezone.utc).date().isoformat(), "steps": {}}
        if rehearsal:
            self.results = {"rehearsal": _REHEARSAL, **self.results}

    @property
    def failed(self) -> bool:
        """Whether a step broke or found a mismatch."""
        return any(step.get("mismatches") or step.get("error") for step in self.results["steps"].values())

    def time_left(self) -> float:
        """Seconds until no new work is started."""
        return self.deadline - monotonic()

    def environment(self) -> tuple[Gpu, str]:
        """The GPU and the torch version; written into the results at first use."""
        from benchmarks.gpu_evidence.environment import describe, this_gpu

        if "environment" not in self.results:
            self.results["environment"] = describe()
        return this_gpu(), self.results["environment"]["torch"]

    def add(self, step: str, **values: Any) -> None:
        """Merges values into a step's results and writes everything."""
        self.results["steps"].setdefault(step, {}).update(values)
        text = json.dumps(self.results, indent=1, ensure_ascii=False, default=str)
        with writing_file(self.path, force=True) as file:
            file.write(f"{text}\n".encode())

    def add_verdicts(self, step: str, name: str, calls: Sequence[CheckedCall]) -> None:
        """Counts of verdicts under ``name``, every failed one in full."""
        counts = Counter(call.verdict.value for call in calls)
        wrong = [
            mismatch(c.call, c.predicted, c.observed, c.verdict, c.detail) for c in calls if c.verdict.failed
        ]
        so_far = self.results["steps"].get(step, {})
        self.add(
            step,
            verdicts={**so_far.get("verdicts", {}), name: dict(counts)},
            mismatches=so_far.get("mismatches", 0) + len(wrong),
            mismatched=(so_far.get("mismatched", []) + wrong)[:_FULL_MISMATCHES],
        )

    def fail(self, step: str, error: str) -> None:
        self.add(step, error=error)

    def skip(self, step: str, why: str) -> None:
        self.add(step, skipped=why)

    def summary(self, step: str) -> str:
        """One line on a step."""
        found = self.results["steps"].get(step, {})
        if "error" in found or "skipped" in found:
            return str(found.get("error") or f"skipped, {found['skipped']}")
        counts: Counter[str] = Counter()
        for part in found.get("verdicts", {}).values():
            counts.update(part)
        said = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()) or "measured"
        return f"{said}; {found.get('mismatches', 0)} mismatches"

    def write_rows(self, name: str, rows: Iterable[dict[str, Any]]) -> Path:
        """A gzip JSON Lines file beside evidence.json; the same rows give the same bytes."""
        path = self.out / name
        with (
            writing_file(path, force=True) as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
        ):
            for row in rows:
                packed.write(json.dumps(row).encode() + b"\n")
        return path


def mismatch(
    call: AttentionCall | None,
    predicted: Prediction | None,
    observed: ObservedShape | None,
    verdict: Verdict,
    detail: str,
) -> dict[str, Any]:
    """A mismatch with everything needed to explain it."""
    return {
        "verdict": verdict.value,
        "detail": detail,
        "call": None if call is None else {name: getattr(call, name) for name in call.__slots__},
        "predicted": None if predicted is None else [launch_row(launch) for launch in predicted.launches],
        "predicted_error": None if predicted is None else predicted.error,
        "observed": None if observed is None else [launch_row(launch) for launch in observed.launches],
    }


def launch_row(launch: KernelLaunch) -> dict[str, Any]:
    """A launch as JSON has it."""
    return {"kernel": launch.kernel, "grid": list(launch.grid), "block": list(launch.block)}


def judge_call(
    call: AttentionCall, gpu: Gpu, version: str, observed: ObservedShape | None, error: str | None
) -> CheckedCall:
    """The verdict on one direct call that launched ``observed`` or was refused with ``error``."""
    prediction = predict(call, gpu, version)
    if error is not None and prediction.error is not None:
        verdict, detail = Verdict.MATCH, f"refused, as predicted: {prediction.error}"
    elif error is not None:
        verdict, detail = Verdict.MISSING, f"refused: {error}; predicted {len(prediction.launches)} launches"
    else:
        verdict, detail = compare(prediction, observed)
    return CheckedCall(verdict, detail, None, None, "other", None, call, prediction, observed)
