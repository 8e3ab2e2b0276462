"""What CUDA graphs froze, in words and in a table."""

from __future__ import annotations

from collections.abc import Sequence

from attnprof.analysis.graph_replays import GraphReplays
from attnprof.report.tables import Column, Table

_SHOWN = 3


def graph_sentence(graphs: Sequence[GraphReplays]) -> str:
    """Where replays get other splits than their lengths would, and how much of a grid is padding."""
    said = [sentence for graph in graphs if (sentence := _of_splits(graph) or _of_grid(graph))]
    more = f" {len(said) - _SHOWN} more graphs are in the table." if len(said) > _SHOWN else ""
    return " ".join(said[:_SHOWN]) + more


def _of_splits(graph: GraphReplays) -> str:
    if graph.captured is None or graph.anew is None:
        return ""
    held = f"at {_range(graph.seqlen_k)} keys" if graph.steps else ""
    anew = f"it would be {_range(graph.anew)} {held}"
    begun = f"The graph for {_tokens(graph)} was captured with "
    if graph.capped:
        room = f"room for {graph.captured} splits, the engine's cap"
        if graph.anew[1] > graph.captured:
            return f"{begun}{room}, which cuts: {anew}."
        return f"{begun}{room}: {anew}."
    if graph.anew == (graph.captured, graph.captured):
        return ""
    return f"{begun}{graph.captured} {'split' if graph.captured == 1 else 'splits'}: {anew}."


def _of_grid(graph: GraphReplays) -> str:
    if graph.padded is None or graph.work_items is None:
        return ""
    least, most = graph.work_items
    padding = _range((graph.padded - most, graph.padded - least))
    return (
        f"The graph for {_tokens(graph)} keeps a grid of {graph.padded} thread blocks for each KV head: "
        f"{_range(graph.work_items)} have work, {padding} are padding."
    )


def _tokens(graph: GraphReplays) -> str:
    return "1 token" if graph.tokens == 1 else f"{graph.tokens} tokens"


def _range(span: tuple[int, int]) -> str:
    return "–".join(f"{one:,}" for one in dict.fromkeys(span))


def graph_table(graphs: Sequence[GraphReplays]) -> Table:
    """A row per graph and kind of layer: its replays, and what it captured."""
    columns = (
        Column("tokens", right=True), Column("steps", "replays", right=True), Column("library"),
        Column("requests", right=True), Column("seqlen_k", "keys", right=True),
        Column("captured", "splits captured", right=True), Column("anew", "called anew", right=True),
        Column("padded", "grid/KV head", right=True), Column("work_items", "with work", right=True),
    )  # fmt: skip
    rows, shown = [], []
    for one in graphs:
        spans = (one.requests, one.seqlen_k, one.anew, one.work_items)
        requests, keys, anew, work = ("" if span is None else _range(span) for span in spans)
        captured = "" if one.captured is None else f"{'≤ ' if one.capped else ''}{one.captured}"
        row = (one.tokens, one.steps, one.library, requests, keys, captured, anew, one.padded, work)
        rows.append(row)
        shown.append(["" if value is None else str(value) for value in row])
    return Table(
        "graphs", columns, rows, shown, "CUDA graphs: what capture froze, and what replays hold (predicted)"
    )
