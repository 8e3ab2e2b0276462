"""A run as one HTML page that needs nothing else: no network, no files beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnprof.files.output import writing_file
from attnprof.report.colours import colour_numbers
from attnprof.report.tables import Table, duration, percent
from attnprof.safety.redact import redact, redact_all

if TYPE_CHECKING:
    from attnprof.report.page_contents import Page
    from attnprof.report.step_charts import Chart, Mark, TimelineColumns

# The timeline's drawing, in the SVG's own units.
_WIDTH, _LEFT, _RIGHT, _TOP = 1000, 44, 20, 14
_SPLITS_HEIGHT, _TIME_HEIGHT, _GAP = 170, 70, 34
_MIN_LABEL_GAP = 46


@dataclass(frozen=True, slots=True)
class Bar:
    """Columns that look alike: a rectangle, its colour's number, and its label above."""

    x: float
    y: float
    width: float
    height: float
    colour: int
    observed: bool
    label: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """A decode timeline as shapes, of the kind of layers ``number``, -1 for all.

    ``ticks`` and ``steps`` are (position, text), ``legend`` (kernel, colour, observed), ``line`` an SVG path.
    """

    title: str
    number: int
    kind: str
    first: int
    count: int
    width: int
    height: int
    left: int
    plot_width: float
    bottom: float
    bars: list[Bar]
    ticks: list[tuple[float, str]]
    steps: list[tuple[float, str]]
    legend: list[tuple[str, int, bool]]
    line: str
    time_top: float
    time_bottom: float
    time_max: str
    has_splits: bool


def render_page(page: Page) -> str:
    """The page as HTML: every value is redacted, then escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def shared(value: Any) -> Any:
        return redact(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=PackageLoader("attnprof.report"),
        autoescape=True,
        finalize=shared,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "percent": percent}
    return environment.get_template("page.html").render(
        page=page,
        drawings=draw_charts(page.charts),
        filled=filled_columns,
        whole=page.whole,
        blob=Markup(page.kernel_timeline.blob if page.kernel_timeline else ""),
        calls=redact_all(page.calls),
    )


def save_page(page: Page, path: Path, inputs: Iterable[Path] = ()) -> None:
    """Writes the page, over none of ``inputs``. Raises UsageError where that is not possible."""
    with writing_file(path, force=True, inputs=inputs) as out:
        out.write(render_page(page).encode("utf-8"))


def filled_columns(table: Table) -> list[int]:
    """The columns in which something is shown."""
    rows = table.for_people()
    return [index for index in range(len(table.columns)) if any(row[index] for row in rows)]


def draw_charts(charts: Sequence[Chart]) -> list[Drawing]:
    """The timelines' shapes, on one scale, one colour per kernel; none where there is nothing to draw."""
    marks = [mark for chart in charts for here in chart.columns.marks for mark in here]
    top = max((mark.num_splits or 1 for mark in marks), default=1)
    colours = colour_numbers(mark.kernel for mark in marks)
    return [_draw(chart, top, colours) for chart in charts if chart.columns.marks]


def _draw(chart: Chart, top: int, colour_of: Mapping[str, int]) -> Drawing:
    columns = chart.columns
    count = len(columns.marks)
    plot_width = _WIDTH - _LEFT - _RIGHT
    per_column = plot_width / count
    unit = (_SPLITS_HEIGHT - 18) / top
    bottom = float(_TOP + _SPLITS_HEIGHT)
    bars, label_at = [], -1000.0
    for begin, end, mark in _stretches(columns.marks):
        x = _LEFT + begin * per_column
        height = (mark.num_splits or 1) * unit
        keys = columns.seqlen_k[begin]
        label = f"{keys:,}" if keys is not None and x - label_at >= _MIN_LABEL_GAP else ""
        label_at = x if label else label_at
        bars.append(
            Bar(
                round(x, 2),
                round(bottom - height, 2),
                round((end - begin) * per_column, 2),
                round(height, 2),
                colour_of[mark.kernel],
                mark.observed,
                label,
            )
        )
    time_top = bottom + _GAP
    line, time_max = _time_line(columns, per_column, time_top)
    has_line = bool(line)
    sources = dict.fromkeys((mark.kernel, mark.observed) for marks in columns.marks for mark in marks)
    return Drawing(
        title=chart.title,
        number=chart.number,
        kind=columns.kind,
        first=columns.first,
        count=count,
        width=_WIDTH,
        height=int(bottom + (_GAP + _TIME_HEIGHT if has_line else 0) + 30),
        left=_LEFT,
        plot_width=plot_width,
        bottom=bottom,
        bars=bars,
        ticks=[(round(bottom - n * unit, 2), str(n)) for n in _ticks(top)],
        steps=[
            (round(_LEFT + (n - columns.first + 0.5) * per_column, 2), f"{n:,}")
            for n in _steps(columns.first, columns.first + count - 1)
        ],
        legend=[(kernel, colour_of[kernel], observed) for kernel, observed in sources],
        line=line,
        time_top=time_top,
        time_bottom=time_top + _TIME_HEIGHT,
        time_max=time_max,
        has_splits=any(mark.num_splits is not None for marks in columns.marks for mark in marks),
    )


def _stretches(marks: tuple[tuple[Mark, ...], ...]) -> list[tuple[int, int, Mark]]:
    """(first column, column after the last, mark): runs of one mark, tallest first where layers differ."""
    found: list[tuple[int, int, Mark]] = []
    open_since: dict[Mark, int] = {}
    for column, here in enumerate([*marks, ()]):
        ended = [mark for mark in open_since if mark not in here]
        found += [(open_since.pop(mark), column, mark) for mark in ended]
        for mark in here:
            open_since.setdefault(mark, column)
    return sorted(found, key=lambda item: (item[0], -(item[2].num_splits or 1)))


def _ticks(top: int) -> list[int]:
    step = next(size for size in (1, 2, 5, 10, 20, 50, 100) if top / size <= 8 or size == 100)
    return list(range(0, top + 1, step))


def _steps(first: int, last: int) -> list[int]:
    """At most about ten round numbers from first to last, both of them included."""
    size = next(
        unit * 10**power
        for power in range(9)
        for unit in (1, 2, 5)
        if (last - first) / (unit * 10**power) <= 8
    )
    inner = [n for n in range(-(-first // size) * size, last, size) if n - first > size / 2 < last - n]
    return list(dict.fromkeys([first, *inner, last]))


def _time_line(columns: TimelineColumns, per_column: float, top: float) -> tuple[str, str]:
    """The attention time per column as a path over the lower lane, and the lane's largest value."""
    known = [spent for spent in columns.attention_ns if spent is not None]
    if not known or not max(known):
        return "", ""
    scale = _TIME_HEIGHT / max(known)
    path, pen = [], "M"
    for index, spent in enumerate(columns.attention_ns):
        if spent is None:
            pen = "M"
            continue
        x, y = _LEFT + index * per_column, top + _TIME_HEIGHT - spent * scale
        path.append(f"{pen}{x:.1f} {y:.1f}H{x + per_column:.1f}")
        pen = "L"
    return "".join(path), duration(max(known))
