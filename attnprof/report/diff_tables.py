"""The tables of a comparison of two runs, and the words that its tables and sentences share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attnprof.nouns import count_of
from attnprof.report.numbers import spans
from attnprof.report.tables import Column, Table, duration, percent
from attnprof.report.work import TOLD_BY

if TYPE_CHECKING:
    from attnprof.analysis.diff import Comparison, Difference, Dispatch
    from attnprof.analysis.diff_times import Measure

_NAME_WIDTH = 14
_ROWS_SHOWN = 8
_LAYERS_SHOWN = 5
_UNCHANGED_SHOWN = 3
_CHANGED = 0.0005  # relative: what a table shows as 0.1 %
_TITLES = {
    "total": "Total",
    "phase": "Phases",
    "module": "Modules",
    "kernel": "Kernels",
    "layer": "Layers, GPU time per step",
}
COMBINE = " + flash_fwd_splitkv_combine_kernel"


def label_names(comparison: Comparison) -> tuple[str, str]:
    """What the runs are called in headings: their names where short and different, else A and B."""
    names = comparison.a, comparison.b
    fits = names[0] != names[1] and max(map(len, names)) <= _NAME_WIDTH
    return names if fits else ("A", "B")


def at_step(phase: str, step: int | None) -> str:
    return f"{phase} step {step}" if step is not None else "the first call"


def words(dispatch: Dispatch, tile: bool = False) -> str:
    """A dispatch in words: kernels, splits, and where it matters the tile."""
    names = " + ".join(name for _, name in dispatch.builds) or "nothing"
    library = dispatch.builds[0][0] if dispatch.builds else ""
    text = names.replace(COMBINE, " + combine") + (
        f" ({library})" if library not in ("", "flash-attn") else ""
    )
    if dispatch.num_splits is not None:
        text += f", {count_of(dispatch.num_splits, 'split')}"
    if tile and not dispatch.tile:
        text += _launched(dispatch)
    if tile and dispatch.tile:
        text += ", tile {} x {}, {} warps".format(*dispatch.tile)
    return text if dispatch.observed else f"would run {text}" if names != "refused" else "would be refused"


def _launched(dispatch: Dispatch) -> str:
    """Grid and block, where no name tells the tile."""
    sizes = (("grid", dispatch.grid), ("block", dispatch.block))
    return "".join(f", {name} {'x'.join(map(str, size))}" for name, size in sizes if size)


def signed(change: float | None) -> str:
    """A relative change as a percentage with its sign."""
    if change is None:
        return ""
    if 0 < abs(change) < 0.0005:
        return f"{'+' if change > 0 else '-'}<0.1 %"
    return f"{change * 100:+.1f} %" if change else "0 %"


def differences_table(comparison: Comparison) -> Table:
    """The calls dispatched otherwise: consecutive steps together, layers that change alike together."""
    a, b = label_names(comparison)
    columns = (
        Column("phase"), Column("steps"), Column("layers"), Column("keys", "KV length"),
        Column("calls", right=True, use=0), Column("differs_in", "differs in", use=0),
        Column("a", a, use=2), Column("b", b, use=2),
    )  # fmt: skip
    rows = [_group_row(group) for group in _groups(comparison.dispatch.differences)]
    return Table("differences", columns, rows, title="Dispatch differences")


def _groups(differences: Sequence[Difference]) -> list[list[Difference]]:
    """Runs of consecutive steps with the same difference, over all layers."""
    groups: dict[tuple[object, ...], list[Difference]] = {}
    current: dict[tuple[object, ...], tuple[object, ...]] = {}
    for one in differences:
        alike = (one.key.phase, one.what, one.a, one.b)
        step = -1 if one.key.step is None else one.key.step
        key = current.get(alike)
        last = groups[key][-1].key.step if key else None
        if key is None or step - (-1 if last is None else last) > 1:
            key = current[alike] = (*alike, step)
            groups[key] = []
        groups[key].append(one)
    return list(groups.values())


def _group_row(group: list[Difference]) -> list[Any]:
    first = group[0]
    steps = sorted({one.key.step for one in group if one.key.step is not None})
    layers = sorted({one.key.layer for one in group if one.key.layer is not None})
    lengths = [n for one in group for n in (one.keys_a, one.keys_b) if n is not None]
    keys = "" if not lengths else str(min(lengths))
    if lengths and max(lengths) > min(lengths):
        keys += f"–{max(lengths)}"
    tile = first.what in ("tile", "launch")
    words = [_short_words(one, tile) for one in (first.a, first.b)]
    return [first.key.phase, spans(steps), spans(layers), keys, len(group), first.what, *words]


def _short_words(dispatch: Dispatch, tile: bool) -> str:
    if dispatch.num_splits is None:
        return words(dispatch, tile).removeprefix("would run ")
    text = (
        dispatch.builds[0][1].removesuffix("_kernel").removeprefix("flash_") if dispatch.builds else "nothing"
    )
    text += f" x{dispatch.num_splits}"
    if tile and not dispatch.tile:
        return text + _launched(dispatch)
    return text + (" {}x{}".format(*dispatch.tile) if tile and dispatch.tile else "")


def measures_table(comparison: Comparison, section: str) -> Table:
    """One section of the measures: their names, both values, the change of B against A."""
    a, b = label_names(comparison)
    heading = "all" if section == "total" else section
    columns = (
        Column("name", heading), Column("metric", "measured", wraps=True),
        Column("a", a, right=True, use=2), Column("b", b, right=True, use=2), Column("change", right=True),
    )  # fmt: skip
    mine = [m for m in comparison.measures if m.section == section]
    rows = [(m.name, m.metric, m.a, m.b, m.change) for m in mine]
    shown, rest = _shown(section, mine)
    if section == "module" and len({frozenset(told) for told in comparison.times.told_by}) > 1:
        by = [", ".join(TOLD_BY[name] for name in told) or "nothing" for told in comparison.times.told_by]
        rest += f"; told by {by[0]} in {a} and by {by[1]} in {b}"
    over = count_of(comparison.times.steps, "shared step") if comparison.times.steps else "all kernels"
    return Table(
        section, columns, rows, shown, f"{_TITLES[section]}, over the {over}{rest}".replace("the all", "all")
    )


def _shown(section: str, measures: Sequence[Measure]) -> tuple[list[list[str]], str]:
    """The rows that people read, and what the title says of those left out."""
    if section == "layer":
        return _shown_layers(measures)
    if section in ("kernel", "module"):
        changed = {m.name for m in measures if m.change is None or abs(m.change) >= _CHANGED}
        names = list(dict.fromkeys(m.name for m in measures))
        kept = [name for name in names if name in changed][:_ROWS_SHOWN]
        kept = kept or names[:_UNCHANGED_SHOWN]
        left = len(names) - len(kept)
        rest = (
            f"; {count_of(left, section)} that changed {'less' if changed else 'little'} left out"
            if left
            else ""
        )
        measures = [m for m in measures if m.name in kept]
        measures = [m for m in measures if m.metric == "GPU time" or m.change is None or m.change]
    else:
        rest = ""
        measures = [
            m for m in measures if m.name != "first decode" or m.metric.startswith(("wall", "GPU time"))
        ]
    shown, last = [], ""
    for m in measures:
        shown.append(["" if m.name == last or section == "total" else m.name, m.metric, *cells(m)])
        last = m.name
    return shown, rest


def _shown_layers(measures: Sequence[Measure]) -> tuple[list[list[str]], str]:
    """Layers whose numbers read alike in one row; of many, those that changed most."""
    alike: dict[tuple[str, ...], list[Measure]] = {}
    for m in measures:
        alike.setdefault((m.metric, *cells(m)), []).append(m)
    groups = sorted(
        alike.items(), key=lambda group: (group[0][0] != "GPU time", -abs(group[1][0].change or 0))
    )
    kept = [
        group for metric in ("GPU time", "attention")
        for group in [g for g in groups if g[0][0] == metric][:_LAYERS_SHOWN]
    ]  # fmt: skip
    rows = [[spans([int(m.name) for m in members]), *text] for text, members in kept]
    return rows, f": the {_LAYERS_SHOWN} that changed most" if len(groups) > len(kept) else ""


def cells(measure: Measure) -> list[str]:
    """A measure's two values and its change, as people read them."""
    if measure.unit == "share":
        moved = None if measure.change is None else round(measure.change * 100, 1)
        points = "" if moved is None else f"{moved:+.1f} points" if moved else "0 points"
        return [percent(measure.a), percent(measure.b), points]
    values = (measure.a, measure.b)
    if measure.unit == "count":
        text = ["" if v is None else f"{v:,.1f}".removesuffix(".0") for v in values]
    else:
        text = [duration(v) for v in values]
    return [*text, "new" if measure.a == 0 and measure.b else signed(measure.change)]


def config_table(comparison: Comparison) -> Table:
    """The settings that differ."""
    a, b = label_names(comparison)
    rows = [(name, _setting(in_a), _setting(in_b)) for name, in_a, in_b in comparison.config]
    columns = (Column("setting"), Column("a", a, use=2), Column("b", b, use=2))
    return Table("settings", columns, rows, title="Settings that differ")


def _setting(value: Any) -> str:
    return "" if value is None else str(value)


def tables(comparison: Comparison) -> list[Table]:
    """Every table that has rows, in the order in which they are read."""
    made = [config_table(comparison), differences_table(comparison)]
    made += [measures_table(comparison, section) for section in _TITLES]
    return [table for table in made if table.rows]


def csv_table(comparison: Comparison) -> Table:
    """Everything in one table: a row per differing call and per measure."""
    columns = tuple(map(Column, ("section", "name", "metric", "unit", "a", "b", "change")))
    rows: list[tuple[Any, ...]] = [
        ("setting", name, "", "", in_a, in_b, None) for name, in_a, in_b in comparison.config
    ]
    for one in comparison.dispatch.differences:
        layer = "" if one.key.layer is None else f", layer {one.key.layer}"
        sides = [words(dispatch, tile=True).removeprefix("would run ") for dispatch in (one.a, one.b)]
        rows.append(
            ("dispatch", f"{at_step(one.key.phase, one.key.step)}{layer}", one.what, "", *sides, None)
        )
    rows += [(m.section, m.name, m.metric, m.unit, m.a, m.b, m.change) for m in comparison.measures]
    return Table("diff", columns, rows)
