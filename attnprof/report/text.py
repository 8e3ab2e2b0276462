"""Reports, checks and predictions as a terminal shows them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from attnprof.analysis.sm_fill import sm_fill
from attnprof.dispatch.libraries import FLASH
from attnprof.dispatch.requests import ONLY_LONGEST, lengths_in_words, split_range
from attnprof.nouns import noun_of
from attnprof.report.console import BOLD, make_console
from attnprof.report.occupancy import per_sm
from attnprof.report.tables import Column, Table, print_table
from attnprof.safety.next_command import next_command
from attnprof.safety.printable import printable
from attnprof.safety.redact import redact

if TYPE_CHECKING:
    from attnprof.check.check_run import CheckedCall
    from attnprof.check.expectations import Judgement
    from attnprof.model import AttentionCall, Gpu, Prediction
    from attnprof.report.console import Console
    from attnprof.report.summary import Report

_LABEL_WIDTH = 10
_TABLES = (
    "phases",
    "steps",
    "modules",
    "tokens",
    "cache",
    "serving",
    "graphs",
    "processes",
    "kinds",
    "splits",
    "splitting",
    "roofline",
    "attention",
    "verdicts",
)
_FINDINGS_SHOWN = 10
_ROWS_SHOWN, _MORE_WORTH_SAYING = 40, 5
_UNIT = re.compile(r"(?<=\d) (?=(%|ns|µs|ms|s)\b|%)")  # between a number and its unit


def labelled(console: Console, label: str, text: str) -> None:
    """A label and its text, later lines of the text indented to the first."""
    import textwrap

    indent = " " * (_LABEL_WIDTH + 1)
    kept = _UNIT.sub("\N{NO-BREAK SPACE}", printable(redact(text)))  # textwrap breaks at other spaces only
    lines = textwrap.wrap(kept, console.width - len(indent), break_long_words=True) or [""]
    lines = [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]
    console.out(console.styled(f"{label:<{_LABEL_WIDTH}} ", BOLD) + lines[0])
    for line in lines[1:]:
        console.out(indent + line)


def print_titled(table: Table, console: Console, target: str = "") -> None:
    """The table under its title; of the run ``target``, some rows and the command that gives them all."""
    console.print(table.title, BOLD)
    more = len(table.rows) - _ROWS_SHOWN
    if not target or more < _MORE_WORTH_SAYING:
        print_table(table, console)
        return
    print_table(table.first(_ROWS_SHOWN), console)
    every = next_command("report", target, "--table", table.name, "--format", "csv")
    console.out(f"and {more:,} more rows: {every}")


def print_report(report: Report) -> None:
    """The whole report."""
    console = make_console()
    for label, text in report.facts:
        labelled(console, label, text)
    console.print()
    for sentence in report.story:
        labelled(console, "answer" if sentence is report.story[0] else "", sentence)
    if report.check.cannot_tell:
        labelled(console, "observed", f"{report.check.cannot_tell}.")
    for name in _TABLES:
        if report.tables[name].rows:
            console.print()
            print_titled(report.tables[name], console, report.target)
    _print_advice(report.tables["advice"], console)
    if report.notes:
        console.print()
        for note in report.notes:
            labelled(console, "note", note)
    console.print()
    # Never wrapped: people copy it.
    console.out(f"{'next':<{_LABEL_WIDTH}} {report.next_command}")


def _print_advice(table: Table, console: Console) -> None:
    """What to do, numbered, each with its evidence and a command on a line of its own."""
    if table.rows:
        console.print()
        console.print(table.title, BOLD)
    for number, (what, saves, share, evidence, command) in enumerate(table.for_people(), start=1):
        saved = f" (at most {saves}, {share})" if saves else ""
        labelled(console, f"{number}.", f"{what}{saved}: {evidence}.")
        # Never wrapped: people copy it.
        console.out(f"{'':<{_LABEL_WIDTH}} {printable(command)}")


def print_check(judgement: Judgement, tables: tuple[Table, ...], target: str) -> None:
    """How much was compared, what ran in the given tables, the first findings, the verdict, what to do."""
    console = make_console()
    if judgement.coverage.calls:
        console.print(judgement.coverage.sentence)
        console.print()
    for table in tables:
        if table.rows:
            print_titled(table, console, target)
            console.print()
    findings = judgement.findings
    for finding in findings[:_FINDINGS_SHOWN]:
        where = f"{finding.calls} calls" if finding.calls > 1 else _where(finding.call)
        labelled(console, finding.label, f"{where}: {finding.detail}" if where else finding.detail)
    if len(findings) > _FINDINGS_SHOWN:
        more = len(findings) - _FINDINGS_SHOWN
        every = next_command("check", target, "--format", "csv")
        console.out(f"{'':<{_LABEL_WIDTH}} and {more} more: {every}")
    calls = f"{judgement.calls} {noun_of(judgement.calls, 'attention call')}"
    if findings:
        count = sum(finding.calls for finding in findings if finding.call) or "none"
        labelled(console, "verdict", f"FAILED: {count} of {calls}")
    elif judgement.cannot_tell:
        labelled(console, "verdict", f"CANNOT TELL: {judgement.cannot_tell}")
        labelled(console, "try", judgement.hint)
    elif judgement.as_expected:
        seen = judgement.as_expected
        judged = calls if seen == judgement.calls else f"{seen} of {calls} were observed"
        labelled(console, "verdict", f"OK: {judged}, all as expected")
    else:
        compared = f"{judgement.coverage.compared} of {calls} compared"
        labelled(console, "verdict", f"OK: {compared}, none contradicts the dispatch rules")


def _where(call: CheckedCall | None) -> str:
    """A call's number, step and layer, as far as they are known."""
    if call is None:
        return ""
    parts = (
        ("process", call.process or None),
        ("call", call.seq),
        (call.phase, call.step),
        ("layer", call.layer),
    )
    return ", ".join(f"{name} {value}" for name, value in parts if value is not None)


def gpu_in_words(gpu: Gpu) -> str:
    """Name, SMs (of AMD: CUs) and compute capability."""
    capability = "" if gpu.vendor == "amd" else f", sm {gpu.sm_major}.{gpu.sm_minor}"
    return f"{gpu.name}: {gpu.num_sms} {gpu.units}{capability}"


def print_prediction(call: AttentionCall, gpu: Gpu, version: str, prediction: Prediction) -> None:
    """One call's derivation and launches."""
    console = make_console()
    shape = f"batch {call.batch}, seqlen_q {call.seqlen_q}, seqlen_k {call.seqlen_k}"
    heads = f"{call.num_heads}/{call.num_heads_k} heads x {call.head_dim}"
    masks = "causal" if call.causal else "not causal"
    told = lengths_in_words(call)
    parts = ", ".join((shape, heads, call.dtype, masks, *([told] if told else ())))
    labelled(console, "call", f"{call.library} {version} {call.entry}: {parts}")
    labelled(console, "gpu", gpu_in_words(gpu))
    console.print()
    # Launches follow in full.
    rows = [
        (reason.rule, reason.value, reason.why) for reason in prediction.reasons if reason.rule != "launch"
    ]
    columns = (Column("rule"), Column("gives", right=True), Column("why", wraps=True))
    print_table(Table("derivation", columns, rows), console)
    console.print()
    if prediction.backend not in (None, FLASH):
        labelled(console, "launch", f"not predicted: those of the {prediction.backend} backend")
    if prediction.error is not None:
        labelled(console, "refused", prediction.error)
    for launch in prediction.launches:
        labelled(console, "launch", launch.kernel)
        grid, block = "x".join(map(str, launch.grid)), "x".join(map(str, launch.block))
        smem = f", {launch.dynamic_smem:,} bytes of dynamic shared memory" if launch.dynamic_smem else ""
        room = per_sm(sm_fill(launch, gpu, call.library, version))
        labelled(console, "", f"grid {grid}, block {block}{smem}, {room}")
    if prediction.num_splits is not None:
        labelled(console, "num_splits", str(prediction.num_splits))
    if prediction.splits_of_requests:
        known = "" if prediction.all_lengths_known else f"; {ONLY_LONGEST}"
        labelled(console, "", f"{split_range(prediction.splits_of_requests)} of a request hold keys{known}")
