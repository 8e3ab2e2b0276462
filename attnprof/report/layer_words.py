"""Kinds of layers in words: "20 sliding layers (1,024 keys), 4 full"."""

from __future__ import annotations

from collections.abc import Sequence

from attnprof.analysis.layer_kinds import KindChange, LayerKind
from attnprof.report.numbers import spans
from attnprof.report.tables import Column, Table, duration, percent

_NAMED = 4  # kinds; of more the others are counted
_LAYERS = 24  # characters
_OF_EACH = " of each"


def kind_names(kinds: Sequence[LayerKind]) -> list[str]:
    """What tells each kind from the others, without their number: "sliding (1,024 keys)", "full", …"""
    names = [_windows(kind, kinds) for kind in kinds]
    for tell in (_place, _heads, _lengths, _kernels):
        if len(set(names)) == len(names) and "" not in names:
            break
        told = [tell(kind, kinds) for kind in kinds]
        names = [
            f"{name} {more}".strip() if not name or names.count(name) > 1 or tell is _lengths else name
            for name, more in zip(names, told, strict=True)
        ]
    if not any(map(_slides, kinds)):
        names = [
            name if "(" in name else f"{name} {_lengths(kind, kinds)}".strip()
            for name, kind in zip(names, kinds, strict=True)
        ]
    return names


def _windows(kind: LayerKind, kinds: Sequence[LayerKind]) -> str:
    """Whether the kind has a sliding window, where some kind has one."""
    if not any(_slides(one) for one in kinds):
        return ""
    if not _slides(kind):
        return "full"
    window = kind.geometry.window
    if window and window[0] >= 0:
        return f"sliding ({window[0] + 1:,} keys)"
    return f"sliding {_lengths(kind, kinds)}".strip()


def _slides(kind: LayerKind) -> bool:
    window = kind.geometry.window
    return bool(kind.geometry.local) or bool(window and window[0] >= 0)


def _heads(kind: LayerKind, kinds: Sequence[LayerKind]) -> str:
    given, built = kind.geometry.heads, kind.geometry.head_dim
    if len({one.geometry.heads for one in kinds}) > 1 and given:
        return f"{given[0]}/{given[1]} heads x {given[2]}"
    return f"head_dim {built}" if len({one.geometry.head_dim for one in kinds}) > 1 and built else ""


def _place(kind: LayerKind, kinds: Sequence[LayerKind]) -> str:
    """The call within the layer, where layers attend several times."""
    if not kind.layers or not any(place for one in kinds for _, place in one.slots):
        return ""
    places = {place for _, place in kind.slots}
    return "call " + ", ".join(str(place + 1) for place in sorted(places)) + _OF_EACH


def _lengths(kind: LayerKind, kinds: Sequence[LayerKind]) -> str:
    """The KV lengths, where they tell kinds apart and are one interval."""
    if len({one.seqlen_k for one in kinds}) < 2 or len(kind.seqlen_k) != 1:
        return ""
    return f"({kind.seqlen_k[0]} keys{' throughout' if kind.steady else ''})"


def _kernels(kind: LayerKind, kinds: Sequence[LayerKind]) -> str:
    """The kernels, where nothing else tells kinds apart and they do."""
    ran = [{row.kernel for row in one.rows} for one in kinds]
    mine = {row.kernel for row in kind.rows}
    return f"({', '.join(sorted(mine))})" if ran.count(mine) < len(ran) else ""


def kind_titles(kinds: Sequence[LayerKind]) -> list[str]:
    """Each kind with its number: "20 sliding layers (1,024 keys)"; "10 of a step's 12 calls (…)"."""
    return [_title(kind, name) for kind, name in zip(kinds, kind_names(kinds), strict=True)]


def _title(kind: LayerKind, name: str) -> str:
    adjective, _, rest = name.partition("(")
    more = f" ({rest}" if rest else ""
    if not kind.layers:
        of = f"{len(kind.slots)} of a step's {kind.of} calls"
        return " ".join(filter(None, (of, adjective.strip()))) + more
    count = len(kind.layers)
    noun = "layer" if count == 1 else "layers"
    told = adjective.strip()
    if told.endswith(_OF_EACH):
        return f"{told} of {count} {noun}{more}"
    text = f"{count} {told} {noun}" if told in ("sliding", "full") else f"{count} {noun} {told}".rstrip()
    return text + more if told or more else f"{text} ({_where(kind)})"


def _where(kind: LayerKind) -> str:
    named = spans(kind.layers)
    if len(named) <= _LAYERS:
        return named
    shown = named[: _LAYERS - 1].rpartition(", ")[0]  # whole spans, as many as there is room for
    return f"{shown}, …"


def kinds_sentence(kinds: Sequence[LayerKind]) -> str:
    """All kinds in one line."""
    titles = kind_titles(kinds)
    if len(kinds) <= _NAMED:
        return ", ".join(titles)
    most = sorted(range(len(kinds)), key=lambda one: -len(kinds[one].slots))[:_NAMED]
    return ", ".join(titles[one] for one in most) + f" and {len(kinds) - _NAMED} other kinds"


def change_sentence(change: KindChange, kinds: Sequence[LayerKind]) -> str:
    """That layers run as one kind until a step, and as another from there on."""
    titles = dict(zip((kind.slots for kind in kinds), kind_titles(kinds), strict=True))
    layers = sorted({layer for layer, _ in change.slots if layer >= 0})
    who = f"layer{'' if len(layers) == 1 else 's'} {spans(layers)}" if layers else (
        f"call {', '.join(str(place + 1) for _, place in change.slots)} of a step"
    )  # fmt: skip
    before, after = titles[change.before.slots], titles[change.after.slots]
    changes = "changes" if len(change.slots) == 1 else "change"
    return (
        f"{who} {changes} kind at decode step {change.step}: first like the {before}, then like the {after}"
    )


def row_label(slots: Sequence[tuple[int, int]], kinds: Sequence[LayerKind]) -> str:
    """Which kinds of layers a row of the split timeline is of; "" for all, or where there is one kind."""
    if len(kinds) < 2:
        return ""
    mine = set(slots)
    within = [number for number, kind in enumerate(kinds) if set(kind.slots) <= mine]
    if len(within) == len(kinds) or not within:
        return ""
    names = kind_names(kinds)
    parts = []
    for number in within:
        kind = kinds[number]
        of = f"{len(kind.slots)} of {kind.of}" if not kind.layers else str(len(kind.layers))
        adjective = names[number].partition("(")[0].strip()
        where = "" if adjective else _where(kind) if kind.layers else ""
        of = "" if adjective.endswith(_OF_EACH) else of
        parts.append(where or " ".join(filter(None, (of, adjective))))
    return ", ".join(parts)


def kind_labels(kinds: Sequence[LayerKind]) -> list[str]:
    """Each kind in few words, for a column: "20 sliding", "10 of 12"."""
    return [row_label(kind.slots, kinds) for kind in kinds]


def kinds_table(kinds: Sequence[LayerKind]) -> Table:
    """The kinds of layers with their cost; no rows where all layers are of one kind."""
    columns = (
        Column("kind", wraps=True), Column("layers"), Column("calls", right=True, use=0),
        Column("gpu_ns", "GPU time", right=True), Column("share", "of attention", right=True),
        Column("per_call_ns", "per call", right=True), Column("slots"), Column("window"),
    )  # fmt: skip
    rows, shown = [], []
    total = sum(kind.gpu_ns or 0 for kind in kinds)
    for kind, title in zip(kinds if len(kinds) > 1 else (), kind_titles(kinds), strict=False):
        spent = kind.gpu_ns
        share = spent / total if spent is not None and total else None
        calls = sum(kind.calls(phase) for phase in {row.phase for row in kind.rows})
        per_call = spent / calls if spent is not None and calls else None
        places = " ".join(f"{layer}:{place}" for layer, place in kind.slots)
        window = kind.geometry.window
        rows.append(
            (title, spans(kind.layers), calls, spent, share, per_call, places,
             None if window is None else f"{window[0]}:{window[1]}")
        )  # fmt: skip
        where = _where(kind) if kind.layers else ""
        shown.append(
            [title, where, f"{calls:,}", duration(spent), percent(share), duration(per_call), "", ""]
        )
    return Table("kinds", columns, rows, shown, "Layers of a kind")
