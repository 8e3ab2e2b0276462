"""What a report says of a run: sentences and tables, ready to be printed, exported or drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnprof.analysis.backends import backend_uses
from attnprof.analysis.graph_replays import graph_replays
from attnprof.analysis.kernels import kernel_totals
from attnprof.analysis.kv_cache import step_reads
from attnprof.analysis.layer_kinds import LayerKind, kind_changes, layer_kinds
from attnprof.analysis.next_change import NEXT_CHANGE_LIMIT, next_change
from attnprof.analysis.phases import PhaseTotal, build_steps, phase_totals
from attnprof.analysis.roofline import roofline
from attnprof.analysis.split_cost import split_costs
from attnprof.analysis.splits import SplitRow, inferred_first_length, kernel_and_splits, split_rows
from attnprof.analysis.steady_state import steady_state
from attnprof.analysis.throughput import first_token, phase_tokens
from attnprof.analysis.work_kinds import work_totals
from attnprof.arrays import distinct
from attnprof.check.check_run import CheckResult, Verdict
from attnprof.dispatch.libraries import library
from attnprof.report.backends import backend_sentences
from attnprof.report.findings import advice, advice_table
from attnprof.report.graph_replays import graph_sentence, graph_table
from attnprof.report.kv_cache import cache_sentence, cache_table, growth_table
from attnprof.report.layer_words import change_sentence, kind_titles, kinds_sentence, kinds_table
from attnprof.report.phases import phases_table, split_cost_table, steps_table, time_sentences
from attnprof.report.roofline import (
    computing_sentence,
    measured_sentences,
    reading_sentence,
    roofline_table,
)
from attnprof.report.run_tables import (
    attention_table,
    kernels_table,
    lengths,
    processes_table,
    splits_table,
    verdicts_table,
)
from attnprof.report.serving import serving_table, steady_sentence
from attnprof.report.tables import Table
from attnprof.report.throughput import tokens_sentence, tokens_table
from attnprof.report.work import work_sentences, work_table
from attnprof.safety.next_command import next_command

if TYPE_CHECKING:
    from attnprof.analysis.measured_peaks import MeasuredPeaks
    from attnprof.check.recording import Recording
from attnprof.check.target import model_heads, repeats_heads
from attnprof.nouns import count_of

_FROZEN_SHOWN = 3
_KINDS_TOLD = 3
_LENGTHS_TOLD = 6  # intervals


@dataclass(frozen=True, slots=True)
class Report:
    """A run in words and tables. ``facts`` are (what, text) pairs; ``story`` the answer in sentences.

    ``target`` is what a command takes for the run.
    """

    name: str
    target: str
    facts: tuple[tuple[str, str], ...]
    story: tuple[str, ...]
    tables: dict[str, Table]
    splits: tuple[SplitRow, ...]
    kinds: tuple[LayerKind, ...]
    check: CheckResult
    notes: tuple[str, ...]
    next_command: str


def summarise(run: Recording, result: CheckResult, peaks: MeasuredPeaks | None = None) -> Report:
    """Everything that the report command shows of a run and its check; ``peaks`` were measured elsewhere."""
    splits = split_rows(result.calls)
    kinds = layer_kinds(splits)
    totals = kernel_totals(run.trace)
    steps = build_steps(run.timeline)
    phases, work = phase_totals(run.timeline, steps), work_totals(run.timeline, steps)
    read = roofline(result.calls, kinds, run.gpu)
    processes = (run.config.get("workload") or {}).get("processes") or ()
    steady = steady_state(run.timeline, run.records, result.calls, processes) if not run.disbelief else None
    graphs = graph_replays(run, result.gpu)
    reads = step_reads(run.records) if not run.disbelief else []
    tokens = phase_tokens(run.timeline, steps, reads, processes) if not run.disbelief else []
    packed = any("seqlens_q" in record.fields for record in run.records)
    first = None if packed else first_token(steps, reads, processes)
    costs = split_costs(run.timeline, run.observed, kinds)
    tables = {
        "phases": phases_table(phases),
        "steps": steps_table(phases),
        "modules": work_table(work),
        "tokens": tokens_table(tokens),
        "cache": growth_table(reads),
        "cache_steps": cache_table(reads),
        "serving": serving_table(steady),
        "graphs": graph_table(graphs),
        "processes": processes_table(processes),
        "kinds": kinds_table(kinds),
        "splits": splits_table(splits, kinds),
        "splitting": split_cost_table(costs, kinds),
        "roofline": roofline_table(read, kinds),
        "advice": advice_table(advice(run, result, phases, splits, read, costs, totals, kinds)),
        "attention": attention_table(totals),
        "kernels": kernels_table(totals),
        "verdicts": verdicts_table(result),
    }
    said = {
        "serving": steady_sentence(steady),
        "graphs": graph_sentence(graphs),
        "modules": " ".join(work_sentences(work)),
        "tokens": tokens_sentence(tokens, first),
        "cache": cache_sentence(reads),
        "reading": reading_sentence(read, kinds),
        "computing": computing_sentence(read, kinds),
        "measured": measured_sentences(read, kinds, peaks, run.gpu),
    }
    name = run.argument
    return Report(
        name=run.name,
        target=name,
        facts=tuple(_facts(run, result, phases, kinds, said)),
        story=tuple(_story(splits, kinds, result)) or _without_calls(run, result),
        tables=tables,
        splits=tuple(splits),
        kinds=tuple(kinds),
        check=result,
        notes=_notes(run, result, kinds),
        next_command=_next_command(name, result, splits),
    )


def _facts(
    run: Recording,
    result: CheckResult,
    phases: list[PhaseTotal],
    kinds: list[LayerKind],
    sentences: dict[str, str],
) -> list[tuple[str, str]]:
    """``sentences`` are those of analyses by their label, "" where there is nothing to say."""
    config, info = run.config, run.trace.info
    facts = [("run", f"{run.name} ({run.ending})")]
    workload = config.get("workload") or {}
    if workload.get("model"):
        facts.append(("workload", _workload(workload, told=run.disbelief is None)))
    if run.disbelief:
        facts.append(("steps", f"{run.disbelief}."))
    capture = config.get("capture") or {}
    if capture.get("recorder") == "none":
        facts.append(("recorded", "attention calls only, no profiler"))
    elif info.exporter or info.format:
        schema = f", schema {info.schema}" if info.schema else ""
        facts.append(("recorded", f"{info.exporter or info.format}{schema}: {_volume(run)}"))
    if run.trace.kernels.device.size:
        observed = run.gpu
        names = {device.index: device.name for device in info.devices}
        used = distinct(run.trace.kernels.device).tolist()
        label = observed.name if observed else names.get(used[0]) or "a GPU the trace does not name"
        sms = f", {observed.num_sms} {observed.units}" if observed else ""
        more = f" (and {len(used) - 1} more)" if len(used) > 1 else ""
        facts.append(("gpu", f"{label}{sms}{more}"))
    else:
        facts.append(("gpu", "none: no GPU kernel was observed"))
    if said := backend_sentences(backend_uses(run, result)):
        facts.append(("backend", " ".join(said)))
    if len(kinds) > 1:
        facts.append(("layers", f"{kinds_sentence(kinds)}."))
    if steady := sentences.pop("serving"):
        facts.append(("serving", f"{steady}."))
    if frozen := sentences.pop("graphs"):
        facts.append(("graphs", frozen))
    if why := time_sentences(phases):
        facts.append(("time", " ".join(why)))
    facts += [(label, text) for label, text in sentences.items() if text]
    if result.library and result.gpu and any(call.predicted for call in result.calls):
        through = _entries(result)
        target = f"{result.gpu.name} ({result.gpu.num_sms} {result.gpu.units})"
        facts.append(("predicted", f"for {target}, {result.library} {result.version}{through}"))
    return facts


def _entries(result: CheckResult) -> str:
    functions = library(result.library).functions if result.library else {}
    entries = {call.call.entry for call in result.calls if call.call}
    used = sorted(functions[entry] for entry in entries if entry in functions)
    return f" through {', '.join(used)}" if used else ""


def _workload(workload: dict[str, Any], *, told: bool) -> str:
    """The model and what it was given; ``told``: its first step is to be believed."""
    model = workload["model"]
    heads = f"{model.get('num_heads')}/{model.get('num_heads_k')} heads x {model.get('head_dim')}"
    details = [heads, model.get("dtype"), f"{model['weights']} weights" if model.get("weights") else None]
    text = f"{model.get('name')}: {model.get('num_layers')} layers, {', '.join(d for d in details if d)}"
    text += f"; {workload.get('attn_implementation')} on {workload.get('device')}"
    if workload.get("prompt_tokens") and (told or workload.get("workload") != "program"):
        batch, prompt = workload.get("batch"), workload["prompt_tokens"]
        text += f"; batch {batch}, {prompt}-token prompt"
        if unequal := workload.get("prompt_lengths"):
            text += f" (unequal: {min(unequal)} to {max(unequal)})"
        if workload.get("max_new_tokens"):
            text += f", {workload['max_new_tokens']} new tokens"
        text += ", static cache" if workload.get("cache") == "static" else ""
    return text


def _volume(run: Recording) -> str:
    trace = run.trace
    graphs = trace.info.whole_graph_launches
    whole = f"{count_of(graphs, 'CUDA graph')} recorded whole, " if graphs else ""
    calls, ranges = len(trace.api_calls), len(trace.ranges)
    kernels = count_of(trace.num_kernels, "kernel")
    return f"{kernels}, {whole}{count_of(calls, 'API call')}, {count_of(ranges, 'range')}"


def _story(splits: list[SplitRow], kinds: list[LayerKind], result: CheckResult) -> list[str]:
    """The answer to "which kernel, how many splits, when does it change", decode first, kind by kind."""
    decode = [row for row in splits if row.phase == "decode" and row.num_splits is not None]
    if result.several_processes:  # the first alone: each has its own timeline in the table
        decode = [row for row in decode if row.processes == decode[0].processes]
    if not decode:
        return _story_without_decode(splits, result)
    unread = [row for row in splits if row.phase == "decode" and row.num_splits is None]
    if result.several_processes:
        unread = [row for row in unread if row.processes == decode[0].processes]
    frozen = dict.fromkeys(call.detail for call in result.having(frozenset({Verdict.FROZEN})))
    whole = [f"Frozen: {detail}." for detail in frozen][:_FROZEN_SHOWN]
    told = [(kind, [row for row in kind.rows if row in decode]) for kind in kinds]
    told = [one for one in told if one[1]]
    if len(told) < 2:
        change = "" if frozen else _next_change(result)
        return [*_of_decode(decode, unread), *whole, *([change] if change else [])]
    sentences = []
    titles = dict(zip((kind.slots for kind in kinds), kind_titles(kinds), strict=True))
    by_cost = sorted(told, key=lambda one: (-(one[0].gpu_ns or 0), -len(one[0].slots)))[:_KINDS_TOLD]
    for kind, rows in (one for one in told if one in by_cost):
        said = _of_decode(rows, [row for row in kind.rows if row in unread])
        stays = frozen or kind.steady or not kind.layers
        change = "" if stays else _next_change(result, frozenset(kind.layers))
        said = [*said, *([change] if change else [])]
        sentences += [f"{titles[kind.slots]}: {said[0][:1].lower()}{said[0][1:]}", *said[1:]]
    if len(told) > len(by_cost):
        sentences.append(f"{len(told) - len(by_cost)} more kinds of layers are in the split timeline.")
    return [*sentences, *whole]


def _of_decode(decode: list[SplitRow], unread: list[SplitRow]) -> list[str]:
    """What layers of one kind run in decode, and from when on it is another.

    Of ``unread`` no split count is told: nothing is said of them but how many they are.
    """
    first, subject = decode[0], "Decode"
    if unread:
        told = sum(row.calls for row in decode)
        every = told + sum(row.calls for row in unread)
        subject = f"In the {told:,} of {every:,} decode calls that tell a split count, decode"
    run, split = ("runs", "splits") if first.observed else ("would run", "would split")
    never = "never splits" if first.observed else "would never split"
    if all(row.num_splits == 1 for row in decode):
        return [f"{subject} {never} the keys: it {run} {first.kernel}{_keys(first)}."]
    changed = next(index for index, row in enumerate(decode) if row.num_splits != 1)
    counts = ", ".join(dict.fromkeys(str(row.num_splits) for row in decode[changed:]))
    row = decode[changed]
    sentences = [f"{subject} {run} {first.kernel}{_at_most(first)}."] if changed else []
    whence = (
        f"From {_low(row)} keys on{_step(row)} it {split} them" if changed else f"{subject} {split} the keys"
    )
    return [*sentences, f"{whence} in {counts}: {row.kernel}."]


def _story_without_decode(splits: list[SplitRow], result: CheckResult) -> list[str]:
    unmodelled = result.having(frozenset({Verdict.NOT_MODELLED}))
    named = {kernel_and_splits(call)[0] for call in unmodelled}
    sentences = []
    for row in splits:
        seen = "ran" if row.observed else "would run"
        untold = "not modelled" if row.kernel in named else "split count not told"
        count = untold if row.num_splits is None else f"each split in {row.num_splits}"
        count = "no split" if row.num_splits == 1 else count
        keys = f"; KV length {lengths(row)}" if row.seqlen_k else ""
        calls = count_of(row.calls, "attention call")
        sentences.append(f"{calls} {seen} {row.kernel}: {count}{keys}.")
    return sentences[:4]


def _without_calls(run: Recording, result: CheckResult) -> tuple[str, ...]:
    """Said where calls were looked for; what the kernels show follows from the check."""
    return ("No attention call was recorded.",) if run.records_complete and not result.calls else ()


def _not_modelled(result: CheckResult) -> list[str]:
    """Why calls have no prediction, the most frequent reason first."""
    reasons = result.details(Verdict.NOT_MODELLED)
    return [f"not modelled: {why} ({_calls(count)})" for why, count in reasons.most_common(3)]


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count:,} calls"


def _repeated_heads(run: Recording, result: CheckResult) -> list[str]:
    """Said where a call is predicted with other heads than it was recorded with."""
    heads = model_heads(run.config.get("workload") or {})
    if heads is None:
        return []
    others = (record for record in run.records if record.library != result.library)
    count = sum(repeats_heads(record, heads) for record in others)
    if not count:
        return []
    given, own = f"{heads[0]}/{heads[0]}", f"{heads[0]}/{heads[1]}"
    return [
        f"transformers repeated the K heads for torch's function ({given} in {count:,} calls): predicted for "
        f"the model's {own}, which {result.library} would be given"
    ]


def _keys(row: SplitRow) -> str:
    return f" for {lengths(row)} keys" if row.seqlen_k else ""


def _at_most(row: SplitRow) -> str:
    high = row.seqlen_k[-1].high if row.seqlen_k else None
    return f" while the cache holds at most {high} keys" if high is not None else ""


def _low(row: SplitRow) -> str:
    return str(row.seqlen_k[0].low) if row.seqlen_k else "some number of"


def _step(row: SplitRow) -> str:
    return f" (step {row.steps[0]})" if row.steps else ""


def _next_change(result: CheckResult, layers: frozenset[int] | None = None) -> str:
    """When the last decode call's dispatch, of these layers, would change next, were the cache to grow."""
    if result.library is None:
        return ""
    decode = (call for call in reversed(result.calls) if call.phase == "decode" and call.call)
    last = next((call for call in decode if layers is None or call.layer in layers), None)
    if last is None or last.call is None or result.gpu is None or last.predicted is None:
        return ""
    # A cache's capacity does not grow.
    if last.call.entry == "fwd_kvcache" or library(last.call.library).key_block(last.call) is None:
        return ""
    if last.predicted.num_splits is None:
        return ""
    change = next_change(last.call, result.gpu, result.version)
    now = _splits(last.predicted.num_splits)
    if change is None:
        return f"It would stay at {now} for every longer cache up to {NEXT_CHANGE_LIMIT:,} keys."
    keys, splits = change
    later = keys - last.call.seqlen_k
    tokens = "1 token" if later == 1 else f"{later} tokens"
    return f"It would change next at {keys} keys, to {_splits(splits)}: {tokens} after the last step."


def _splits(count: int) -> str:
    return "1 split" if count == 1 else f"{count} splits"


def _notes(run: Recording, result: CheckResult, kinds: list[LayerKind]) -> tuple[str, ...]:
    # Without kernels the verdict says so already.
    notes = [
        note for note in run.timeline.notes if result.observed or "CUPTI_ACTIVITY_KIND_KERNEL" not in note
    ]
    notes += [change_sentence(change, kinds) for change in kind_changes(kinds)]
    notes += _not_modelled(result)
    notes += [f"launched as {whose} is ({_calls(count)})" for whose, count in result.owners.most_common(3)]
    notes += _repeated_heads(run, result)
    notes += (run.config.get("capture") or {}).get("notes") or []
    if result.calls and result.gpu is None:
        notes.append("the trace does not state the GPU's SM count: give --gpu NAME to learn the KV lengths")
    if not run.records and result.calls and len(kinds) < 2:  # one layer's lengths are not another's
        first = inferred_first_length(result.calls)
        if first:
            told = ", ".join(map(str, first[:_LENGTHS_TOLD])) + (" or more" if first[_LENGTHS_TOLD:] else "")
            held = f"the first decode step held {told} keys, by the split counts"
            notes.append(f"if each step added a key, {held}")
    return tuple(dict.fromkeys(notes))


def _next_command(name: str, result: CheckResult, splits: list[SplitRow]) -> str:
    if result.failures:
        return next_command("check", name)
    if any(row.phase == "decode" and row.steps for row in splits):
        return next_command("report", name, "--plot", "splits.png")
    return next_command("check" if result.calls else "report", name, "--format", "csv")
