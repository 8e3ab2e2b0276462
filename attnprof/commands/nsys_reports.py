"""attnprof report --report: nsys's own reports, written as asked."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from attnprof.commands.options import TableFormat
from attnprof.files.output import writing_file

if TYPE_CHECKING:
    from attnprof.analysis.nsys_columns import NsysReport

_ENDINGS = {TableFormat.TABLE: "txt", TableFormat.JSON: "json", TableFormat.CSV: "csv", TableFormat.MD: "md"}


def write_nsys_reports(run: str | None, names: str, output_format: TableFormat, output: str | None) -> None:
    """The named reports on stdout, one behind the other, or each in a file of its own."""
    from attnprof.analysis.nsys_reports import canonical_name, make_report
    from attnprof.runs.run import load

    wanted = [canonical_name(name.strip()) for name in names.split(",")]
    loaded = load(run)
    timeline = loaded.detailed_timeline()
    for number, name in enumerate(wanted):
        report = make_report(name, timeline)
        if output is None or output == "-":
            if number:
                print()
            _write(report, output_format, sys.stdout)
            continue
        path = Path(f"{output}_{name}.{_ENDINGS[output_format]}")
        with (
            writing_file(path, force=True, inputs=loaded.files) as raw,
            io.TextIOWrapper(raw, encoding="utf-8") as file,
        ):
            _write(report, output_format, file)
        print(f"wrote {path}", file=sys.stderr)


def _write(report: NsysReport, output_format: TableFormat, out: TextIO) -> None:
    from attnprof.report.nsys_tables import nsys_table, nsys_table_for_people, write_nsys_csv
    from attnprof.report.tables import table_text, to_markdown, write_json

    if output_format is TableFormat.CSV:
        write_nsys_csv(report, out)
        return
    if output_format is TableFormat.JSON:
        write_json(nsys_table(report), out)
        return
    shown = nsys_table_for_people(report)
    if output_format is TableFormat.MD:
        out.write(f"## {shown.title}\n\n{to_markdown(shown)}")
    else:
        out.write(f"{shown.title}\n{table_text(shown)}\n")
    if len(shown.rows) < report.rows:
        print(f"all {report.rows:,} rows: --format csv", file=sys.stderr)
