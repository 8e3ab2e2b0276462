"""A comparison of two runs as a terminal, a file or a program reads it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from attnprof.nouns import count_of
from attnprof.report.console import make_console
from attnprof.report.diff_tables import (
    COMBINE,
    at_step,
    label_names,
    signed,
    tables,
    words,
)
from attnprof.report.numbers import spans
from attnprof.report.tables import duration, to_markdown
from attnprof.report.text import labelled, print_titled
from attnprof.safety.quoting import markdown_words
from attnprof.safety.redact import redact

if TYPE_CHECKING:
    from attnprof.analysis.diff import Comparison, Difference, Dispatch, DispatchDiff, OneSided
    from attnprof.analysis.splits import SplitRow

_BITWISE = {
    "num_splits": "a changed split count sums the keys' partial results in another order",
    "kernel": "another kernel sums in another order",
    "tile": "another tile sums the keys in blocks of another size",
    "launch": "other threads, or another grid for the same call, are of another kernel of that name",
}


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition of --gate or --gate-dispatch. ``passed`` is None where the runs cannot tell."""

    name: str
    passed: bool | None
    why: str


def judge(comparison: Comparison, percentage: float | None, *, dispatch: bool) -> list[Gate]:
    """The gates asked for: B's time at most ``percentage`` worse, and no dispatch difference."""
    gates = []
    if percentage is not None:
        gates.append(_time_gate(comparison, percentage))
    if dispatch:
        found = comparison.dispatch
        if not found.shared:
            gates.append(Gate("dispatch", None, "the runs have no attention call in common to compare"))
        else:
            count = len(found.differences) + found.only_a.in_shared_steps + found.only_b.in_shared_steps
            if count:
                gates.append(Gate("dispatch", False, f"{count:,} calls differ"))
            elif found.untold:
                gates.append(Gate("dispatch", None, f"{_untold(found)}, though all kernels are the same"))
            else:
                why = f"{found.shared:,} shared calls are dispatched alike"
                why += f"; {_untiled(found)}" if found.untiled else ""
                gates.append(Gate("dispatch", True, why))
    return gates


def _time_gate(comparison: Comparison, percentage: float) -> Gate:
    times = comparison.times
    over = f"over {count_of(times.steps, 'shared step')}" if times.steps else "over all kernels"
    for metric, values in (("GPU time", times.gpu_ns), ("CPU step time", times.wall_ns)):
        if values is None:
            continue
        before, after = values
        change = after / before - 1 if before else 0.0
        passed = change * 100 <= percentage
        limit = f"{'within' if passed else 'worse than'} {percentage:g} %"
        why = f"{metric} {over}: {duration(before)} to {duration(after)}, {signed(change)}: {limit}"
        return Gate("time", passed, why)
    return Gate("time", None, "the runs have neither kernels nor steps in common to time")


def dispatch_sentences(comparison: Comparison) -> list[tuple[str, str]]:
    """(label, sentence): what of the dispatch differs, and what that means for equality of the outputs."""
    found, (a, b) = comparison.dispatch, label_names(comparison)
    said: list[tuple[str, str]] = []
    source = _source(comparison, (a, b))
    if not found.shared:
        said.append(
            ("dispatch", "cannot be compared: no attention call with a known dispatch is in both runs.")
        )
    elif found.equal:
        alike = f"same kernels; {_untold(found)}" if found.untold else "same kernels, same split counts"
        said.append(("dispatch", f"EQUAL in {_shared(found)}{source}: {alike}."))
        if found.untiled:
            said.append(("tiles", f"{_untiled(found)}: these were compared by their launches alone."))
        if not found.untold and not found.untiled:
            said.append(
                ("bitwise", "the dispatch gives the outputs of the shared steps no reason to differ.")
            )
    else:
        said += _differences(comparison, (a, b), source)
    for name, side in ((a, found.only_a), (b, found.only_b)):
        said += [(f"only {name}", sentence) for sentence in _one_sided(side)]
    if found.first_other_length is not None:
        key, keys_a, keys_b = found.first_other_length
        said.append(
            ("lengths", f"KV lengths differ from {at_step(key.phase, key.step)} on: {keys_a} and {keys_b}.")
        )
    if found.unknown:
        said.append(
            ("unknown", f"{count_of(found.unknown, 'shared call')} went to kernels that are not modelled.")
        )
    return said


def _untold(found: DispatchDiff) -> str:
    return f"{count_of(found.untold, 'call')} of {found.shared:,} do not tell how often they split"


def _untiled(found: DispatchDiff) -> str:
    calls = count_of(found.untiled, "call")
    return f"{calls} of {found.shared:,} ran kernels whose names do not state the tile"


def _shared(found: DispatchDiff) -> str:
    calls = count_of(found.shared, "shared call")
    what = f"{count_of(found.shared_steps, 'shared step')} ({calls})" if found.shared_steps else calls
    return f"{'all' if (found.shared_steps or found.shared) > 1 else 'the'} {what}"


def _source(comparison: Comparison, names: tuple[str, str]) -> str:
    """Whether the dispatch was observed or predicted, and for what, in each run."""
    each = [
        f"{source} for {target}" if source == "predicted" and target else source
        for source, target in zip(comparison.sources, comparison.targets, strict=True)
    ]
    if each[0] == each[1]:
        return f", {each[0]}"
    return f"; {names[0]}: {each[0]}; {names[1]}: {each[1]}"


def _differences(comparison: Comparison, names: tuple[str, str], source: str) -> Iterable[tuple[str, str]]:
    found = comparison.dispatch
    missing = found.only_a.in_shared_steps + found.only_b.in_shared_steps
    count = len(found.differences)
    steps = len({one.key.step for one in found.differences})
    of_steps = f" ({steps:,} of {count_of(found.shared_steps, 'shared step')})" if found.shared_steps else ""
    shared = count_of(found.shared, "shared call")
    lacks = f"{count_of(missing, 'call')} of one run {'is' if missing == 1 else 'are'} missing in the other"
    if count:
        text = f"DIFFERS in {count:,} of {shared}{of_steps}{source}."
        text += f" In shared steps, {lacks}." if missing else ""
    else:
        where = " in shared steps" if found.shared_steps else ""
        text = f"DIFFERS: {lacks}{where}; in {shared} nothing differs{source}."
    yield "dispatch", text
    if not count:
        return
    first = found.differences[0]
    where = at_step(first.key.phase, first.key.step)
    layer = f", layer {first.key.layer}" if first.key.layer is not None else ""
    keys = f", {_either(first.keys_a, first.keys_b)} keys" if first.keys_a or first.keys_b else ""
    tile = first.what in ("tile", "launch")
    yield (
        "first",
        (f"{where}{layer}{keys}: {names[0]} {words(first.a, tile)}; {names[1]} {words(first.b, tile)}."),
    )
    yield "bitwise", f"outputs may differ in their last bits from {where} on: {_BITWISE[first.what]}."


def _either(a: object, b: object) -> str:
    return str(a) if a == b else f"{a if a is not None else '?'} and {b if b is not None else '?'}"


def _one_sided(side: OneSided) -> Iterable[str]:
    """Which steps a run has alone, and where its dispatch changes in them."""
    if not side.steps:
        return
    by_phase = {phase: [step for p, step in side.steps if p == phase] for phase, _ in side.steps}
    steps = "; ".join(
        f"{phase} {'step' if len(s) == 1 else 'steps'} {spans(s)}" for phase, s in by_phase.items()
    )
    if not side.changes:
        yield f"{steps}."
        return
    before, after = side.changes[0]
    was = _row_words(before) if before.kernel != after.kernel else _splits(before)
    at = f"step {min(after.steps)}{_from_keys(after)}"
    yield f"{steps}. It switches at {at}: from {was} to {_row_words(after)}."
    more = side.changes[1:]
    if more:
        last = more[-1][1]
        yield (
            f"{count_of(len(more), 'more change')} follow{'s' if len(more) == 1 else ''}, the last at step "
            f"{min(last.steps)}{_from_keys(last)}, to {_row_words(last)}."
        )


def _from_keys(row: SplitRow) -> str:
    return f" / {row.seqlen_k[0].low} keys" if row.seqlen_k else ""


def _row_words(row: SplitRow) -> str:
    kernel = row.kernel.replace(COMBINE, " + combine")
    return f"{_splits(row)} ({kernel})" if row.num_splits is not None else kernel


def _splits(row: SplitRow) -> str:
    return row.kernel if row.num_splits is None else count_of(row.num_splits, "split")


def print_diff(comparison: Comparison, gates: Sequence[Gate], next_command: str) -> None:
    """The whole comparison for a terminal."""
    console = make_console()
    a, b = label_names(comparison)
    if (a, b) != (comparison.a, comparison.b):
        labelled(console, a, comparison.a)
        labelled(console, b, comparison.b)
    last = ""
    for label, sentence in dispatch_sentences(comparison):
        labelled(console, "" if label == last else label, sentence)
        last = label
    if not comparison.measures:
        labelled(console, "time", "cannot be compared: the runs share neither steps nor kernels.")
    elif comparison.times.gpu_ns is None:
        none = "neither run holds" if comparison.times.num_kernels == (0, 0) else "only one run holds"
        labelled(console, "time", f"wall time of the steps on the CPU: {none} GPU kernels.")
    for table in tables(comparison):
        console.print()
        print_titled(table, console)
    if gates:
        console.print()
    for gate in gates:
        verdict = {True: "OK", False: "FAILED", None: "CANNOT TELL"}[gate.passed]
        labelled(console, f"gate {gate.name}"[:14], f"{verdict}: {gate.why}")
    console.print()
    console.out(f"{'next':<10} {next_command}")


def as_json(comparison: Comparison, gates: Sequence[Gate], exit_code: int) -> dict[str, Any]:
    """The whole comparison as plain values."""
    found = comparison.dispatch
    return {
        "a": comparison.a,
        "b": comparison.b,
        "exit_code": exit_code,
        "gates": [asdict(gate) for gate in gates],
        "dispatch": {
            "equal": found.equal if found.shared else None,
            "source": dict(zip("ab", comparison.sources, strict=True)),
            "for": dict(zip("ab", comparison.targets, strict=True)),
            "shared_calls": found.shared,
            "shared_steps": found.shared_steps,
            "not_modelled": found.unknown,
            "differences": [_difference(one) for one in found.differences],
            "only_a": _side(found.only_a),
            "only_b": _side(found.only_b),
        },
        "answer": [f"{label}: {sentence}" for label, sentence in dispatch_sentences(comparison)],
        "settings": [{"setting": name, "a": in_a, "b": in_b} for name, in_a, in_b in comparison.config],
        "timed_steps": comparison.times.steps,
        "measures": [asdict(measure) | {"change": measure.change} for measure in comparison.measures],
    }


def _difference(one: Difference) -> dict[str, Any]:
    def side(dispatch: Dispatch, keys: int | None) -> dict[str, Any]:
        return {
            "kernels": [name for _, name in dispatch.builds],
            "library": dispatch.builds[0][0] if dispatch.builds else None,
            "num_splits": dispatch.num_splits,
            "tile": dispatch.tile,
            "observed": dispatch.observed,
            "seqlen_k": keys,
        }

    where = {"phase": one.key.phase, "step": one.key.step, "layer": one.key.layer}
    return where | {"differs_in": one.what, "a": side(one.a, one.keys_a), "b": side(one.b, one.keys_b)}


def _side(side: OneSided) -> dict[str, Any]:
    return {
        "calls": side.calls,
        "calls_in_shared_steps": side.in_shared_steps,
        "steps": [{"phase": phase, "step": step} for phase, step in side.steps],
        "changes": [
            {
                "step": after.steps[0] if after.steps else None,
                "seqlen_k": after.seqlen_k[0].low if after.seqlen_k else None,
                "from_num_splits": before.num_splits,
                "to_num_splits": after.num_splits,
                "to_kernel": after.kernel,
                "observed": after.observed,
            }
            for before, after in side.changes
        ],
    }


def to_document(comparison: Comparison, gates: Sequence[Gate]) -> str:
    """The comparison in Markdown."""
    said = [(label, sentence) for label, sentence in dispatch_sentences(comparison)]
    said += [(f"gate {gate.name}", gate.why) for gate in gates]
    parts = [f"# attnprof diff: {_literal(comparison.a)} against {_literal(comparison.b)}\n\n"]
    parts += [f"- {_literal(label)}: {_literal(sentence)}\n" for label, sentence in said]
    parts += [f"\n## {_literal(table.title)}\n\n{to_markdown(table)}" for table in tables(comparison)]
    return "".join(parts)


def _literal(text: str) -> str:
    return markdown_words(redact(text))
