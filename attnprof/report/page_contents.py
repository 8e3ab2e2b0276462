"""What an HTML page shows of a run, as plain values, every derivation held once."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnprof.analysis.kernels import KernelTotal, kernel_totals
from attnprof.analysis.layer_kinds import LayerKind, kinds_of_calls
from attnprof.analysis.sm_fill import SmFill, sm_fill
from attnprof.analysis.splits import kernel_and_splits
from attnprof.check.check_run import CheckedCall, CheckResult
from attnprof.dispatch import default_version, predict
from attnprof.dispatch.explanation import strength
from attnprof.dispatch.requests import split_range
from attnprof.model import AttentionCall, KernelLaunch, Prediction
from attnprof.nouns import count_of
from attnprof.report.explain import call_in_words
from attnprof.report.kernel_timeline import KernelTimeline, kernel_timeline
from attnprof.report.layer_words import kind_titles
from attnprof.report.occupancy import at_most
from attnprof.report.step_charts import Chart, charts
from attnprof.report.tables import Column, Table, percent
from attnprof.report.whole_model_drawings import CacheDrawing, WorkDrawing, drawings
from attnprof.safety.redact import redact_command

if TYPE_CHECKING:
    from attnprof.check.recording import Recording
    from attnprof.report.summary import Report

_FILL_ROWS = 40
_FINDINGS_SHOWN = 20
_SHOWN_OTHERWISE = ("kernels", "attention", "cache_steps")  # in the table of kernels, as a drawing


@dataclass(frozen=True, slots=True)
class Page:
    """A run as a page shows it.

    ``source`` is "observed", "predicted", "mixed" or "none", for what the attention calls are; ``state`` is
    "ok", "failed" or "unknown", for the check. ``calls`` is what the page's script reads: see ``call_data``.
    """

    title: str
    source: str
    state: str
    verdict: str
    story: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    findings: Table | None
    tables: tuple[Table, ...]
    whole: dict[str, WorkDrawing | CacheDrawing | None]
    fill: Table | None
    kernels: tuple[KernelTotal, ...]
    charts: tuple[Chart, ...]
    kinds_left: int
    environment: tuple[tuple[str, str], ...]
    calls: dict[str, Any]
    kernel_timeline: KernelTimeline | None
    next_command: str


def make_page(run: Recording, report: Report) -> Page:
    """The page of a run and its report."""
    result = report.check
    of_call = kinds_of_calls(result.calls, report.kinds).tolist()
    state, verdict = _verdict(result)
    drawn = charts(result.calls, report.kinds, of_call)
    return Page(
        title=report.name,
        source=_source(result.calls),
        state=state,
        verdict=verdict,
        story=report.story,
        facts=report.facts,
        notes=report.notes,
        tables=tuple(table for name, table in report.tables.items() if name not in _SHOWN_OTHERWISE),
        whole=drawings(tuple(report.tables.values())),
        findings=_findings(result),
        fill=_fill_table(result),
        kernels=tuple(kernel_totals(run.trace)),
        charts=tuple(drawn),
        kinds_left=len(report.kinds) - len(drawn) if len(drawn) > 1 else 0,
        environment=tuple(_environment(run)),
        calls=call_data(run, result, report.kinds, of_call),
        kernel_timeline=kernel_timeline(run, result.calls, report.splits),
        next_command=report.next_command,
    )


def _verdict(result: CheckResult) -> tuple[str, str]:
    calls = count_of(len(result.calls), "attention call")
    if result.failures:
        return "failed", f"{len(result.failures):,} of {calls} ran otherwise than the library's rules say"
    if result.cannot_tell:
        return "unknown", result.cannot_tell[:1].upper() + result.cannot_tell[1:]
    said = result.coverage.sentence
    return "ok", f"{said[:1].upper()}{said[1:]}; none contradicts the dispatch rules"


def _findings(result: CheckResult) -> Table | None:
    """The first calls that failed, in words."""
    columns = [
        Column(name, right=name in ("call", "step", "layer")) for name in ("call", "phase", "step", "layer")
    ]
    columns += [Column("verdict"), Column("detail")]
    rows = [
        (call.seq, call.phase, call.step, call.layer, call.verdict.value, call.detail)
        for call in result.failures[:_FINDINGS_SHOWN]
    ]
    more = len(result.failures) - len(rows)
    title = f"Findings (the first {len(rows)} of {len(result.failures):,})" if more else "Findings"
    return Table("findings", columns, rows, title=title) if rows else None


def _source(calls: Iterable[CheckedCall]) -> str:
    seen = {call.observed is not None for call in calls if call.observed or call.predicted}
    if len(seen) == 2:
        return "mixed"
    return {True: "observed", False: "predicted"}[seen.pop()] if seen else "none"


def _environment(run: Recording) -> list[tuple[str, str]]:
    config = run.config
    workload = config.get("workload") or {}
    capture = config.get("capture") or {}
    rows = [("run", run.name), ("made", config.get("created")), ("attnprof", config.get("attnprof"))]
    if config.get("command"):
        rows.append(("command", redact_command(config["command"])))
    if config.get("source"):
        rows.append(("trace", str(config["source"].get("path") or config["source"].get("name"))))
    elif not run.is_run:
        rows.append(("trace", str(run.trace.info.path)))
    recorder = " ".join(str(part) for part in (capture.get("recorder"), capture.get("version")) if part)
    rows.append(("recorder", recorder or run.trace.info.exporter or ""))
    for device in run.trace.info.devices:
        parts = [device.name or "name not in the trace"]
        if device.num_sms:
            parts.append(f"{device.num_sms} SMs")
        if device.sm_major is not None:
            parts.append(f"sm {device.sm_major}.{device.sm_minor or 0}")
        rows.append((f"GPU {device.index}", ", ".join(parts)))
    rows += [(name, version) for name, version in (workload.get("versions") or {}).items()]
    rows += (capture.get("environment") or {}).items()
    if workload.get("device") == "cpu":
        rows.append(("device", f"cpu ({platform.machine()})"))
    return [(label, str(text)) for label, text in rows if text]


def _fill_table(result: CheckResult) -> Table | None:
    """How each distinct main launch fills the GPU's SMs, most calls first."""
    if result.gpu is None:
        return None
    counts: dict[tuple[KernelLaunch, bool], int] = {}
    for call in result.calls:
        observed = call.observed is not None
        launches = call.observed.launches if call.observed else call.predicted and call.predicted.launches
        for launch in (launches or ())[:1]:
            counts[launch, observed] = counts.get((launch, observed), 0) + 1
    rows = [
        (launch, observed, count, sm_fill(launch, result.gpu, result.library or "", result.version or ""))
        for (launch, observed), count in sorted(counts.items(), key=lambda item: -item[1])
        if all(launch.grid)
    ][:_FILL_ROWS]
    if not rows:
        return None
    columns = (
        Column("source"), Column("kernel"), Column("grid"), Column("calls", right=True),
        Column("thread_blocks", "thread blocks", right=True), Column("per_sm", "per SM", right=True),
        Column("slots", right=True), Column("waves", right=True), Column("sms_busy", "SMs busy", right=True),
        Column("fill", "of the slots used", right=True),
    )  # fmt: skip
    values = [_fill_row(*row) for row in rows]
    shown = [
        [
            *(str(v) for v in row[:3]),
            *(f"{v:,}" for v in row[3:5]),
            at_most(fill),
            f"{row[6]:,}",
            f"{row[7]:.2f}",
            f"{fill.sms_busy} of {fill.num_sms}",
            percent(row[9]),
        ]
        for row, (_, _, _, fill) in zip(values, rows, strict=True)
    ]
    return Table("sm_fill", columns, values, shown, "SM fill")


def _fill_row(launch: KernelLaunch, observed: bool, count: int, fill: SmFill) -> tuple[Any, ...]:
    source, grid = "observed" if observed else "predicted", "x".join(map(str, launch.grid))
    room = (fill.thread_blocks, fill.per_sm, fill.slots, round(fill.waves, 4))
    return source, fill.kernel, grid, count, *room, fill.sms_busy, round(fill.fill, 4)


class _Strings:
    """Texts held once, referred to by number."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {"": 0}

    def __call__(self, text: object) -> int:
        return self.known.setdefault("" if text is None else str(text), len(self.known))


def call_data(
    run: Recording, result: CheckResult, kinds: Sequence[LayerKind], of_call: Sequence[int]
) -> dict[str, Any]:
    """Every attention call and its derivation, compactly; ``of_call`` is the number of each call's kind.

    strings: texts that the rest refers to by number.  shapes: one object per distinct call (its arguments,
    verdict, launches and derivation).  groups: [step, phase, shape, kind, first seq, first layer, count, ns
    per call or 0] for calls that follow each other with one shape; -1 where a number is unknown.  kinds: what
    the kinds of layers are called.
    """
    strings = _Strings()
    index: dict[Any, int] = {}
    shapes: list[dict[str, Any]] = []
    groups: list[list[Any]] = []
    for call, kind in zip(result.calls, of_call, strict=True):
        key = (call.call, id(call.observed), call.verdict, call.detail)
        if key not in index:
            index[key] = len(shapes)
            shapes.append(_shape(call, run, result, strings))
        _append(groups, call, (strings(call.phase), index[key], kind))
    return {
        "strings": list(strings.known), "shapes": shapes, "groups": groups, "kinds": kind_titles(kinds),
    }  # fmt: skip


def _append(groups: list[list[Any]], call: CheckedCall, alike: tuple[int, int, int]) -> None:
    """Adds a call to the groups; ``alike`` are its phase, shape and kind."""
    step, seq, layer = (-1 if n is None else n for n in (call.step, call.seq, call.layer))
    if groups:
        *same, first_seq, first_layer, count, times = groups[-1]
        follows = same == [step, *alike] and (times == 0) == (call.duration_ns is None)
        for first, number in ((first_seq, seq), (first_layer, layer)):
            follows = follows and number == (first + count if first >= 0 else -1)
        if follows:
            groups[-1][-2] += 1
            if call.duration_ns is not None:
                times.append(call.duration_ns)
            return
    spent = 0 if call.duration_ns is None else [call.duration_ns]
    groups.append([step, *alike, seq, layer, 1, spent])


def _shape(call: CheckedCall, run: Recording, result: CheckResult, strings: _Strings) -> dict[str, Any]:
    kernel, num_splits, observed = kernel_and_splits(call)
    version = ""
    predicted = _explained(call, run, result)
    shape: dict[str, Any] = {
        "verdict": strings(call.verdict.value),
        "failed": int(call.verdict.failed),
        "kernel": strings("" if kernel == "none" else kernel),
        "splits": num_splits,
        "observed": int(observed),
        "detail": strings(call.detail or call.verdict.meaning),
    }
    if call.call is not None:
        version = _version(call.call, run, result)
        shape |= {"call": strings(call_in_words(call.call, version)), "keys": call.call.seqlen_k}
    if call.inferred is not None:
        lengths = ", ".join(map(str, call.inferred.seqlen_k)) or "none"
        if call.share is not None:
            lengths += f"; {strength(call.share)}: {call.share:.2%} of all lengths give these launches"
        shape["inferred"] = strings(lengths)
    if call.observed is not None:
        shape["ran"] = _launches(call.observed.launches, strings)
    if predicted is not None:
        rules = [reason for reason in predicted.reasons if reason.rule != "launch"]
        shape |= {
            "version": strings(
                f"{call.call.library} {_version(call.call, run, result)}" if call.call else ""
            ),
            "would": _launches(predicted.launches, strings),
            "reasons": [[strings(r.rule), strings(r.value), strings(r.why)] for r in rules],
            "predicted": predicted.num_splits,
            "of_requests": strings(split_range(predicted.splits_of_requests)),
            "refused": strings(predicted.error),
        }
    return shape


def _explained(call: CheckedCall, run: Recording, result: CheckResult) -> Prediction | None:
    """The call's prediction with its derivation; without one where it cannot be derived again."""
    if call.call is None or call.predicted is None or result.gpu is None:
        return call.predicted
    again = predict(call.call, result.gpu, _version(call.call, run, result), explain=True)
    return again if again == call.predicted else call.predicted


def _version(call: AttentionCall, run: Recording, result: CheckResult) -> str:
    if call.library == result.library and result.version:
        return result.version
    installed = (run.config.get("workload") or {}).get("versions") or {}
    return str(installed.get(call.library) or default_version(call.library))


def _launches(launches: Iterable[KernelLaunch], strings: _Strings) -> list[list[int]]:
    return [
        [strings(one.kernel), strings("x".join(map(str, one.grid))), strings("x".join(map(str, one.block)))]
        + ([one.dynamic_smem] if one.dynamic_smem else [])
        for one in launches
    ]
