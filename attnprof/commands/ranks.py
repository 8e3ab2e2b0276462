"""attnprof report FOLDER: many traces as the ranks of one job."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from attnprof.commands.options import TableFormat
from attnprof.errors import UsageError

if TYPE_CHECKING:
    from attnprof.model import Gpu


def report_ranks(
    folder: Path,
    output_format: TableFormat,
    table: str | None,
    *,
    gpu: Gpu | None,
    workers: int | None,
    scheduler: str | None,
) -> None:
    """Summarises every trace of the folder and shows the job."""
    from attnprof.analysis.job import build_job
    from attnprof.report.job import job_sentences, job_tables, print_job
    from attnprof.report.tables import print_json, to_markdown, write_csv
    from attnprof.runs.rank_traces import find_traces, say_how, summarise_all
    from attnprof.safety.quoting import markdown_words
    from attnprof.safety.redact import redact

    paths = find_traces(folder)
    say_how(paths, scheduler)
    job = build_job(summarise_all(paths, gpu=gpu, workers=workers, scheduler=scheduler))
    tables = job_tables(job)
    if table is not None and table not in tables:
        raise UsageError(f"--table {table} is not of a folder of traces", hint=f"one of {', '.join(tables)}")
    if output_format is TableFormat.TABLE:
        print_job(job, str(folder))
    elif output_format is TableFormat.CSV:
        write_csv(tables[table or "ranks"], sys.stdout)
    elif output_format is TableFormat.JSON:
        content = {name: part.objects() for name, part in tables.items()}
        phases = {rank.label: [asdict(phase) for phase in rank.phases] for rank in job.ranks}
        answer = [f"{label}: {sentence}" for label, sentence in job_sentences(job)]
        print_json({"answer": answer, **content, "phases_per_rank": phases})
    else:
        print(f"# attnprof report: {markdown_words(redact(str(folder)))}\n")
        said = [f"- {label}: {markdown_words(redact(sentence))}" for label, sentence in job_sentences(job)]
        print("\n".join(said), end="\n\n")
        for name, part in tables.items():
            if part.rows:
                print(f"## {name}\n\n{to_markdown(part)}")
    for rank in job.unreadable:
        print(f"note: rank {rank.label} is missing: {rank.error}", file=sys.stderr)
