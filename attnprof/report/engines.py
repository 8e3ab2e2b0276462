"""An engine's answer, and its sweep, as tables, text and plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from attnprof.analysis.engines import EngineAnswer, EngineStretch, kernel_in_words
from attnprof.analysis.explain import in_words
from attnprof.analysis.sum_order import launched
from attnprof.analysis.sweep import Stretch
from attnprof.dispatch.engines.layer import PREFILL_BACKEND, Outcome
from attnprof.dispatch.intervals import Interval
from attnprof.report.console import BOLD, make_console
from attnprof.report.explain import as_object, call_in_words, markdown, print_explanation
from attnprof.report.sweep import short_kernels, staircases
from attnprof.report.tables import Column, Table, print_table, to_markdown
from attnprof.report.text import labelled
from attnprof.safety.quoting import markdown_words

_NO_REASON = "one before it is valid"
_NOT_ASKED = "the user asks for another"


def question_in_words(made: Outcome) -> str:
    """Engine, layer and step on one line."""
    layer, step = made.layer, made.step
    shape = f"batch {step.batch}, seqlen_q {step.seqlen_q}, seqlen_k {step.seqlen_k}"
    parts = [shape, f"{layer.num_heads}/{layer.num_heads_k} heads x {layer.head_dim}", layer.dtype]
    for given, words in (
        (layer.kv_dtype != "auto", f"KV cache {layer.kv_dtype}"),
        (layer.block_size is not None, f"pages of {layer.block_size}"), (layer.mla, "MLA"),
        (layer.sparse, "sparse"), (layer.sinks, "sinks"), (layer.mm_prefix, "prefix LM"),
        (layer.window is not None, f"window {layer.window}"), (layer.alibi, "ALiBi"),
        (layer.softcap > 0, f"softcap {layer.softcap:g}"), (layer.non_causal, "not causal"),
        (layer.batch_invariant, "batch-invariant"), (step.cuda_graph, "CUDA graph"),
        (step.drafts, "drafts"),
    ):  # fmt: skip
        if given:
            parts.append(words)
    return f"{made.engine} {made.version}: {', '.join(parts)}"


def backends_table(made: Outcome) -> Table:
    """Every backend of the engine's list in its order, and why it is not taken."""
    passed_over = _NOT_ASKED if made.layer.backend else _NO_REASON
    rows = [(other.backend, "no", "; ".join(other.reasons) or passed_over) for other in made.choice.others]
    taken = (made.choice.backend or "none", "yes" if made.choice.backend else "", made.choice.why)
    columns = (Column("backend"), Column("taken"), Column("why", wraps=True))
    return Table("backends", columns, [taken, *rows], title="Backends")


def decisions_table(made: Outcome) -> Table:
    """What the engine decides before it calls the library."""
    rows = [(note.rule, note.value, note.why) for note in made.notes]
    columns = (Column("rule"), Column("value", "gives", right=True), Column("why", wraps=True))
    return Table("decisions", columns, rows, title="What the engine decides")


def further_table(made: Outcome) -> Table:
    """The layer's further calls in the same step, and what each launches."""
    rows = []
    for each in made.more:
        told = each.prediction
        launches = each.not_predicted if told is None else told.error or launched(told.launches)
        splits = "" if told is None or told.num_splits is None else str(told.num_splits)
        rows.append((call_in_words(each.call, made.library_version or ""), splits, launches))
    columns = (Column("call", wraps=True), Column("splits", right=True), Column("launches", wraps=True))
    return Table("further", columns, rows, title="Further calls of the layer in this step")


def _tables(made: Outcome) -> list[Table]:
    found = (backends_table(made), decisions_table(made), further_table(made))
    return [table for table in found if table.rows]


def sentences(answer: EngineAnswer) -> list[str]:
    """The answer in words: the backend, what it runs, and what the library does with it."""
    made = answer.outcome
    if made.choice.backend is None:
        return [f"{made.engine} {made.version} ends with an error: {made.choice.why}."]
    runs = kernel_in_words(made)
    prompts = any(note.rule == PREFILL_BACKEND for note in made.notes)
    whose = "whose prompts are attended by" if prompts else "which runs"
    what = f", {whose} {runs}" if runs else ""
    taken = f"{made.engine} {made.version} takes {made.choice.backend}{what}"
    first = f"On {made.gpu.name} {taken}: {made.choice.why}."
    if answer.explanation is not None:
        return [first, *in_words(answer.explanation)]
    return [first, f"Its launches are not predicted: {made.not_predicted}."]


def print_engine(answer: EngineAnswer) -> None:
    """From engine to grid: the backends, the decisions, then the call explained."""
    console = make_console()
    made = answer.outcome
    labelled(console, "engine", question_in_words(made))
    if answer.explanation is None:
        gpu = made.gpu
        sm = f"sm {gpu.sm_major}.{gpu.sm_minor}"
        labelled(console, "gpu", f"{gpu.name}: {gpu.num_sms} {gpu.units}, {sm}")
        console.print()
        labelled(console, "answer", " ".join(sentences(answer)))
    else:
        console.print()
        labelled(console, "backend", sentences(answer)[0])
    for table in _tables(made):
        console.print()
        console.print(table.title, BOLD)
        print_table(table, console)
    if answer.explanation is not None:
        console.print()
        print_explanation(answer.explanation)


def engine_markdown(answer: EngineAnswer) -> str:
    """The same as Markdown."""
    made = answer.outcome
    parts = [f"# {markdown_words(question_in_words(made))}", markdown_words(sentences(answer)[0])]
    parts += [f"## {table.title}\n\n{to_markdown(table).rstrip()}" for table in _tables(made)]
    if answer.explanation is None:
        return "\n\n".join([*parts, markdown_words(sentences(answer)[-1])]) + "\n"
    return "\n\n".join(parts) + "\n\n" + markdown(answer.explanation)


def engine_object(answer: EngineAnswer) -> dict[str, Any]:
    """Everything as plain values for JSON."""
    made = answer.outcome
    return {
        "engine": made.engine,
        "engine_version": made.version,
        "gpu": asdict(made.gpu),
        "layer": asdict(made.layer),
        "step": asdict(made.step),
        "backend": made.choice.backend,
        "why": made.choice.why,
        "backends": [asdict(other) for other in made.choice.others],
        "decisions": [asdict(note) for note in made.notes],
        "answer": sentences(answer),
        "num_splits": made.num_splits,
        "not_predicted": made.not_predicted or None,
        "library": made.call.library if made.call else None,
        "library_version": made.library_version,
        "explanation": as_object(answer.explanation) if answer.explanation else None,
        "further": [as_object(each) if each else None for each in answer.more],
    }


def engine_changes_table(found: Sequence[EngineStretch], along: str) -> Table:
    """Where backend, kernel or split count changes."""
    fixed = _fixed(along)
    columns = (
        Column("gpu"), Column("engine_version", "version"), Column(fixed, right=True),
        Column(f"{along}_from", along, right=True), Column(f"{along}_to", "to", right=True),
        Column("num_splits", "splits", right=True), Column("backend"), Column("kernels", wraps=True),
        Column("why_not", wraps=True),
    )  # fmt: skip
    rows = [(*_question_cells(each, fixed), each.low, each.high, *_answer_cells(each)) for each in found]
    return Table("changes", columns, rows, title=f"Backend, kernel and split count along {along}")


def engine_steps_table(found: Sequence[EngineStretch], along: str) -> Table:
    """The changes as people read them: steps of equal height and width are one row."""
    fixed, versions = _fixed(along), len({each.question.version for each in found}) > 1
    columns = (
        Column("gpu"), *([Column("version")] if versions else []), Column(fixed, right=True),
        Column(along, right=True), Column("change", right=True), Column("splits", right=True),
        Column("backend", "backend: kernel", wraps=True),
    )  # fmt: skip
    rows, last = [], None
    for step in staircases([_as_stretch(each) for each in found]):
        first = next(each for each in found if _same(each, step.first))
        gpu, version, at = _question_cells(first, fixed)
        head = [gpu, *([version] if versions else []), str(at)]
        head = head if first.question is not last else [""] * len(head)
        splits = "–" if first.num_splits is None else str(first.num_splits)
        splits += f"–{step.last.num_splits}" if step.count > 1 else ""
        runs = f": {short_kernels(first.runs)}" if first.runs else ""
        span = str(Interval(first.low, step.last.high))
        rows.append((*head, span, step.every(along), splits, f"{first.backend or 'none'}{runs}"))
        last = first.question
    return Table("changes", columns, rows)


def _fixed(along: str) -> str:
    return "seqlen_k" if along == "batch" else "batch"


def _question_cells(each: EngineStretch, fixed: str) -> tuple[str, str, int]:
    question = each.question
    return question.gpu.name, question.version or "", getattr(question.step, fixed)


def _answer_cells(each: EngineStretch) -> tuple[int | None, str | None, str, str]:
    return each.num_splits, each.backend, each.runs, each.why_not


def _as_stretch(each: EngineStretch) -> Stretch:
    """The same as a library's stretch, so that steps are found alike."""
    setting: Any = each.question
    kernels = f"{each.backend} {each.runs}"
    return Stretch(setting, each.low, each.high, each.num_splits, kernels, "", each.why_not, (0.0, 0.0))


def _same(each: EngineStretch, stretch: Stretch) -> bool:
    question: Any = stretch.setting
    return each.question is question and each.low == stretch.low


def print_engine_sweep(found: Sequence[EngineStretch], along: str, points: int) -> None:
    """The changes, and why some have no split count."""
    console = make_console()
    question = found[0].question
    layer = question.layer
    shape = f"{layer.num_heads}/{layer.num_heads_k} heads x {layer.head_dim}, {layer.dtype}"
    graph = ", CUDA graph" if question.step.cuda_graph else ""
    invariant = ", batch-invariant" if layer.batch_invariant else ""
    labelled(
        console, "sweep", f"{question.name}, seqlen_q {question.step.seqlen_q}, {shape}{graph}{invariant}"
    )
    console.print()
    print_table(engine_steps_table(found, along), console)
    console.print()
    for why_not in dict.fromkeys(each.why_not for each in found if each.why_not):
        labelled(console, "no splits", why_not)
    changes = len(found) - len({id(each.question) for each in found})
    labelled(console, "points", f"{points:,} answers, {changes:,} change{'s' * (changes != 1)}")
