"""nsys's own reports as tables: every row and column for programs, the telling ones for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO, overload

from attnprof.dispatch.names.kernel_names import short_name
from attnprof.report.csv_columns import write_csv_columns
from attnprof.report.tables import Column, Table, duration

if TYPE_CHECKING:
    from attnprof.analysis.nsys_columns import NsysReport

ROWS_SHOWN = 50
_AT_ONCE = 8192
_WIDEST = 30  # characters of a name, so that the numbers beside it fit the terminal


class ReportRows(Sequence[tuple[Any, ...]]):
    """The rows of a report, made a block at a time: a trace has millions."""

    def __init__(self, report: NsysReport) -> None:
        self._report = report

    def __len__(self) -> int:
        return self._report.rows

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for first in range(0, len(self), _AT_ONCE):
            yield from self._block(slice(first, first + _AT_ONCE))

    @overload
    def __getitem__(self, rows: int) -> tuple[Any, ...]: ...
    @overload
    def __getitem__(self, rows: slice) -> list[tuple[Any, ...]]: ...
    def __getitem__(self, rows: int | slice) -> tuple[Any, ...] | list[tuple[Any, ...]]:
        if isinstance(rows, slice):
            return list(self._block(rows))
        at = range(len(self))[rows]
        return next(self._block(slice(at, at + 1)))

    def _block(self, rows: slice) -> Iterator[tuple[Any, ...]]:
        return zip(*(column.take(rows) for column in self._report.columns), strict=True)


def nsys_table(report: NsysReport) -> Table:
    """All rows under nsys's own titles."""
    return Table(report.name, [Column(column.title) for column in report.columns], ReportRows(report))


def write_nsys_csv(report: NsysReport, out: TextIO) -> None:
    """All rows under nsys's own titles, as CSV."""
    columns = report.columns
    blocks = (
        [column.take(slice(first, min(first + _AT_ONCE, report.rows))) for column in columns]
        for first in range(0, report.rows, _AT_ONCE)
    )
    write_csv_columns([column.title for column in columns], [column.own for column in columns], blocks, out)


def nsys_table_for_people(report: NsysReport) -> Table:
    """The first rows, with times in fitting units and kernels by their short names."""
    rows = ReportRows(report)[:ROWS_SHOWN]
    titles = [column.title for column in report.columns]
    shown = [dict(zip(titles, row, strict=True)) for row in rows]
    columns = _FOR_PEOPLE[report.name]
    cells = [[cell(row) for _, cell in columns] for row in shown]
    if len({row.get("PID") for row in shown}) == 1:
        one = [column.heading for column, _ in columns].index("pid") if "PID" in titles else None
        cells = [["" if at == one else cell for at, cell in enumerate(row)] for row in cells]
    of = f"{len(rows):,} of " if len(rows) < report.rows else ""
    title = f"{report.name}: {of}{report.rows:,} row{'s' if report.rows != 1 else ''}"
    heads = [Column(column.key, column.heading, column.right) for column, _ in columns]
    return Table(report.name, heads, cells, cells, title)


_Cell = tuple[Column, Callable[[dict[str, Any]], str]]


def _plain(title: str, heading: str = "", *, right: bool = True) -> _Cell:
    return Column(title, heading, right), lambda row: "" if row[title] is None else f"{row[title]}"


def _time(title: str, heading: str) -> _Cell:
    return Column(title, heading, right=True), lambda row: str(duration(row[title]))


def _text(title: str, heading: str) -> _Cell:
    return Column(title, heading), lambda row: _cut(str(row[title] or ""))


def _kernel(title: str, heading: str) -> _Cell:
    return Column(title, heading), lambda row: _cut(short_name(row[title] or ""))


def _sizes(heading: str, *titles: str) -> _Cell:
    """Three sizes as 1x2x3; nothing for a copy."""

    def cell(row: dict[str, Any]) -> str:
        sizes = row[titles[0]].split() if len(titles) == 1 else [row[title] for title in titles]
        return "" if sizes[0] is None else "x".join(map(str, sizes))

    return Column(heading, right=True), cell


def _nested(row: dict[str, Any]) -> str:
    return _cut("  " * row["Lvl"] + str(row["Name"]))


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"


_SUMMARY = (_time("Total Time (ns)", "total"), _time("Avg (ns)", "mean"), _time("Med (ns)", "median"))
_FOR_PEOPLE: dict[str, tuple[_Cell, ...]] = {
    "cuda_gpu_kern_sum": (
        _plain("Time (%)", "% of all"),
        _plain("Instances", "runs"),
        *_SUMMARY,
        _sizes("grid", "GridXYZ"),
        _sizes("block", "BlockXYZ"),
        _kernel("Name", "kernel"),
    ),
    "nvtx_kern_sum": (
        _text("NVTX Range", "range"),
        _plain("PID", "pid"),
        _plain("NVTX Inst", "ranges"),
        _plain("Kern Inst", "kernels"),
        *_SUMMARY[:2],
        _kernel("Kernel Name", "kernel"),
    ),
    "nvtx_gpu_proj_trace": (
        (Column("Name", "range"), _nested),
        _plain("Projected Start (ns)", "GPU start (ns)"),
        _time("Projected Duration (ns)", "on the GPU"),
        _time("Orig Duration (ns)", "on the CPU"),
        _plain("NumGPUOps", "GPU ops"),
        _plain("NumChild", "children"),
        _plain("PID", "pid"),
    ),
    "cuda_gpu_trace": (
        _plain("Start (ns)", "start (ns)"),
        _time("Duration (ns)", "took"),
        _sizes("grid", "GrdX", "GrdY", "GrdZ"),
        _sizes("block", "BlkX", "BlkY", "BlkZ"),
        _plain("Strm", "stream"),
        _kernel("Name", "operation"),
    ),
}
