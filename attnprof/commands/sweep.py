"""attnprof sweep: predictions over ranges of calls."""

from __future__ import annotations

import sys
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnprof.commands.call_flags import (
    call_flags,
    call_from_flags,
    default_num_heads_k,
    engine_from_flags,
)
from attnprof.commands.engine_question import with_model
from attnprof.commands.options import TableFormat
from attnprof.commands.ranges import Ranges, parse_ranges
from attnprof.errors import UsageError

if TYPE_CHECKING:
    from attnprof.analysis.sweep import Along, Setting, Sweep

_MOST_POINTS = 50_000_000
_MOST_SETTINGS = 200_000
_MOST_LINES = 5_000
_RANGE = "RANGE"
_HEADS, _HEAD_DIM = "28", "128"


@call_flags
def sweep(
    call_flags: dict[str, Any],
    seqlen_k: Annotated[
        str, typer.Option(metavar=_RANGE, help="Keys; the cache's capacity for fwd_kvcache. E.g. 1:8192.")
    ],
    batch: Annotated[str, typer.Option(metavar=_RANGE, help="Sequences. E.g. 1,8,32 or 1:64.")] = "1",
    seqlen_q: Annotated[str, typer.Option(metavar=_RANGE, help="Queries per sequence.")] = "1",
    num_heads: Annotated[
        str, typer.Option("--num-heads", "--heads", metavar=_RANGE, help="Query heads.")
    ] = _HEADS,
    num_heads_k: Annotated[
        str | None,
        typer.Option(
            "--num-heads-k", "--kv-heads", metavar=_RANGE, help="KV heads. Default: 4 of 28, else all."
        ),
    ] = None,
    head_dim: Annotated[str, typer.Option(metavar=_RANGE, help="Elements per head.")] = _HEAD_DIM,
    max_splits: Annotated[
        str, typer.Option(metavar=_RANGE, help="Most splits the heuristic may choose; 128 in the library.")
    ] = "128",
    gpu: Annotated[
        str | None, typer.Option(metavar="NAMES", help="GPUs as attnprof gpus lists them, with commas.")
    ] = None,
    library: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Libraries, with commas. Default: flash_attn.")
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(metavar="VERSIONS", help="Library versions, with commas. Default: the newest."),
    ] = None,
    entry: Annotated[
        str,
        typer.Option(metavar="ENTRIES", help="fwd, varlen_fwd, fwd_kvcache or flashinfer's, with commas."),
    ] = "fwd",
    along: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Where changes are looked for: seqlen_k, batch or seqlen_q. Default: seqlen_k if it has "
            "several values, else the longest of the others.",
        ),
    ] = None,
    invariance: Annotated[
        bool,
        typer.Option(
            "--invariance",
            help="The batch sizes, and numbers of queries, at which split count, kernel or tile, hence the "
            "order of summation, differ from the smallest.",
        ),
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="A row for every prediction instead of one per change.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw num_splits over the ranges (.png, .svg, .pdf)."),
    ] = None,
    output_format: Annotated[
        TableFormat, typer.Option("--format", help="table, json, csv or md.")
    ] = TableFormat.TABLE,
) -> None:
    """Predict num_splits over ranges: where it changes, on which GPU, for which version.

    A RANGE is numbers and first:last[:step] with commas, both ends included.

    \b
    Examples:
      attnprof sweep --seqlen-k 1:8192 --batch 1,8,32 --gpu a100,h200,h20 --plot splits.png
      attnprof sweep --seqlen-k 4096 --batch 10:50 --num-heads 40 --num-heads-k 8
      attnprof sweep --seqlen-k 1:8192 --batch 1:64 --invariance
      attnprof sweep --seqlen-k 4096 --seqlen-q 1:16 --invariance
      attnprof sweep --seqlen-k 1:8192 --version 2.5.6,2.8.3 --format csv
      attnprof sweep --engine vllm --model qwen2.5-7b --gpu b200,h100 --seqlen-k 4096 --batch 1:512
    """
    from attnprof.analysis.sweep import sweep as run_sweep

    heads = {"num_heads": num_heads, "num_heads_k": num_heads_k, "head_dim": head_dim}
    asked = heads | {"model": call_flags.pop("model"), "engine": call_flags["engine"]}
    heads = with_model(asked, (_HEADS, _HEAD_DIM))
    call_flags |= {name: heads[name] for name in ("mla", "sparse", "sinks", "deepseek") if name in heads}
    num_heads, head_dim = str(heads["num_heads"]), str(heads["head_dim"])
    num_heads_k = None if heads["num_heads_k"] is None else str(heads["num_heads_k"])
    ranges = {
        "seqlen_k": parse_ranges(seqlen_k, "--seqlen-k", least=0),
        "batch": parse_ranges(batch, "--batch"),
        "seqlen_q": parse_ranges(seqlen_q, "--seqlen-q"),
        "head_dim": parse_ranges(head_dim, "--head-dim"),
        "max_splits": parse_ranges(max_splits, "--max-splits"),
        "num_heads": parse_ranges(num_heads, "--num-heads"),
    }
    if num_heads_k is not None:
        ranges["num_heads_k"] = parse_ranges(num_heads_k, "--num-heads-k")
    names = {
        "library": _names(library),
        "version": _names(version),
        "gpu": _names(gpu),
        "entry": _names(entry),
    }
    direction = "seqlen_k" if invariance else _direction(along, ranges)
    _refuse_too_many(ranges, names, direction)
    values = {name: each.values() for name, each in ranges.items()}
    if call_flags["engine"] is not None:
        if invariance or every or plot is not None:
            raise UsageError(
                "--engine shows where the backend and the split count change",
                hint="leave out --invariance, --all and --plot",
            )
        _sweep_engine(values, names, call_flags, direction, output_format)
        return
    if invariance and len(values["batch"]) < 2 and len(values["seqlen_q"]) < 2:
        raise UsageError(
            "--invariance compares batch sizes or queries, and --batch and --seqlen-q name one each",
            hint="give several: --batch 1:64, or --seqlen-q 1:16",
        )
    settings = list(_settings(values, names, call_flags, direction))
    result = run_sweep(settings, direction, values[direction])
    if invariance:
        _write_invariance(result, output_format)
    elif every:
        _write_points(result, output_format)
    else:
        _write_changes(result, output_format, plot)
    if plot is not None:
        from attnprof.report.dispatch_figures import plot_sweep
        from attnprof.report.figures import save_figure

        save_figure(plot_sweep(result), plot)
        print(f"wrote {plot}", file=sys.stderr)


def _sweep_engine(
    values: dict[str, list[int]], names: dict[str, list[str | None]], flags: dict[str, Any],
    direction: Along, output_format: TableFormat,
) -> None:  # fmt: skip
    """Where an engine's backend, kernel or split count changes."""
    from attnprof.analysis.engines import EngineQuestion, sweep_engine
    from attnprof.report.engines import engine_changes_table, print_engine_sweep
    from attnprof.report.tables import write_table

    targets = {"library": names["library"][0], "version": names["version"][0]}
    first = {name: each[0] for name, each in values.items()} | targets
    rest = [name for name in ("seqlen_q", "batch", "seqlen_k") if name != direction]
    heads = product(values["num_heads"], values.get("num_heads_k", [None]), values["head_dim"])
    questions = []
    for gpu, version, (h, hk, dim) in product(names["gpu"], _names(flags["engine_version"]), list(heads)):
        for sizes in product(*(values[name] for name in rest)):
            asked = {
                "gpu": gpu,
                "engine_version": version,
                "num_heads": h,
                "num_heads_k": hk,
                "head_dim": dim,
            }
            given = flags | first | asked | dict(zip(rest, sizes, strict=True))
            name, known, layer, step, device = engine_from_flags(given | {"model": None})
            questions.append(EngineQuestion(name, known, layer, step, device))
    found = list(sweep_engine(questions, direction, values[direction]))
    if output_format is TableFormat.TABLE:
        print_engine_sweep(found, direction, len(questions) * len(values[direction]))
    else:
        write_table(engine_changes_table(found, direction), output_format.value)


def _names(text: str | None) -> list[str | None]:
    """Names with commas between them; [None] for none."""
    if text is None:
        return [None]
    return list(dict.fromkeys(name.strip() for name in text.split(",")))


def _direction(asked: str | None, ranges: dict[str, Ranges]) -> Along:
    """The field along which changes are looked for."""
    from attnprof.analysis.sweep import ALONG

    if asked is None:
        longest = max(ALONG[1:], key=lambda name: ranges[name].at_most)
        return longest if ranges["seqlen_k"].at_most == 1 < ranges[longest].at_most else "seqlen_k"
    for name in ALONG:
        if asked.replace("-", "_") == name:
            return name
    raise UsageError(f"--along {asked!r} is none of {', '.join(ALONG)}")


def _refuse_too_many(ranges: dict[str, Ranges], names: dict[str, list[str | None]], direction: str) -> None:
    """Refuses a sweep that is too large, before anything of its size exists."""
    sizes = {f"{each.option} {each.at_most:,}": each.at_most for each in ranges.values()}
    sizes |= {f"--{name} {len(each)}": len(each) for name, each in names.items()}
    total = prod(sizes.values())
    settings = total // max(1, ranges[direction].at_most)
    product_text = " x ".join(text for text, size in sizes.items() if size > 1)
    hint = "give a range a step; changes are only where a key block begins, e.g. --seqlen-k 1:131072:64"
    if total > _MOST_POINTS:
        raise UsageError(f"{total:,} predictions ({product_text}) are more than {_MOST_POINTS:,}", hint=hint)
    if settings > _MOST_SETTINGS:
        raise UsageError(
            f"{settings:,} combinations besides {direction} ({product_text}) exceed {_MOST_SETTINGS:,}",
            hint="give a range a step, or let the longest range be the one that is swept: --along NAME",
        )


def _settings(
    values: dict[str, list[int]], names: dict[str, list[str | None]], flags: dict[str, Any], direction: str
) -> list[Setting]:
    """Every combination besides the swept field, in the order of the options."""
    from dataclasses import replace

    from attnprof.analysis.sweep import Setting
    from attnprof.machine.library_versions import version_to_predict

    if names["version"] != [None] and len(names["library"]) > 1:
        raise UsageError("--version goes with one --library", hint="sweep the libraries one by one")
    first = {name: each[0] for name, each in values.items()}
    heads = [
        (h, hk) for h in values["num_heads"] for hk in values.get("num_heads_k", [default_num_heads_k(h)])
    ]
    rest = [name for name in ("head_dim", "seqlen_q", "max_splits", "batch", "seqlen_k") if name != direction]
    settings = []
    for library, version, gpu, entry in product(*names.values()):
        target = {"library": library, "version": version, "gpu": gpu, "entry": entry}
        call, device, _ = call_from_flags(
            flags | {"model": None} | first | {"num_heads_k": heads[0][1]} | target
        )
        known = version or version_to_predict(call.library)
        for (h, hk), sizes in product(heads, product(*(values[name] for name in rest))):
            size: dict[str, Any] = dict(zip(rest, sizes, strict=True))
            cap = size.pop("max_splits")
            settings.append(Setting(replace(call, num_heads=h, num_heads_k=hk, **size), device, known, cap))
    return settings


def _write_changes(result: Sweep, output_format: TableFormat, plot: Path | None) -> None:
    from attnprof.analysis.sweep import stretches
    from attnprof.report.sweep import changes_table, print_sweep
    from attnprof.report.tables import write_table

    found = list(stretches(result))
    if output_format is TableFormat.TABLE:
        import shlex

        again = shlex.join(["attnprof", *sys.argv[1:]])
        print_sweep(result, found, "" if plot else f"{again} --plot splits.png")
    else:
        write_table(changes_table(result, found), output_format.value)


def _write_invariance(result: Sweep, output_format: TableFormat) -> None:
    from attnprof.analysis.invariance import invariance
    from attnprof.report.invariance import invariance_objects, invariance_tables, print_invariance
    from attnprof.report.tables import write_table

    found = invariance(result)
    if output_format is TableFormat.TABLE:
        print_invariance(result, found)
    elif output_format is TableFormat.JSON:
        import json

        print(json.dumps(invariance_objects(found), indent=1))
    else:
        for number, table in enumerate(invariance_tables(found)):
            if number:
                print()
            write_table(table, output_format.value)


def _write_points(result: Sweep, output_format: TableFormat) -> None:
    import csv

    from attnprof.report.sweep import points, points_columns
    from attnprof.report.tables import Column, Table, write_table
    from attnprof.safety.quoting import csv_cell

    columns = points_columns(result.along)
    if output_format is TableFormat.CSV:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(map(csv_cell, row) for row in points(result))
        return
    size = result.size
    if output_format is not TableFormat.JSON and size > _MOST_LINES:
        raise UsageError(
            f"--all would print a table of {size:,} lines", hint="write them as data: --all --format csv"
        )
    write_table(
        Table("points", [Column(name) for name in columns], list(points(result))), output_format.value
    )
