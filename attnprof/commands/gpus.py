"""attnprof gpus: the GPUs that --gpu knows."""

from __future__ import annotations

from typing import Annotated

import typer

from attnprof.commands.options import TableFormat


def gpus(
    output_format: Annotated[
        TableFormat, typer.Option("--format", help="table, json, csv or md.")
    ] = TableFormat.TABLE,
) -> None:
    """List the GPUs that can be predicted for: SMs, compute capability, shared memory, bandwidth, L2, peaks.

    16-bit and fp8: what the matrix units compute at most, dense, in TFLOP/s, where a data sheet says it.

    Any other GPU is given as --sms N --sm X.Y.
    """
    from attnprof.gpus import GPUS, make_gpu
    from attnprof.report.tables import Column, Table, write_table

    rows = []
    for model in GPUS:
        gpu = make_gpu(model.name, *model.sm, model.num_sms)
        sm = f"{model.sm[0]}.{model.sm[1]}"
        peak = model.tensor_peak
        per_block = gpu.smem_per_block_optin // 1024
        rows.append(
            (
                model.name,
                sm,
                model.num_sms,
                per_block,
                model.memory_gb,
                model.bandwidth_gb_s,
                model.l2_mb,
                peak.half if peak else None,
                peak.fp8 if peak else None,
                model.source,
                peak.source if peak else None,
            )
        )
    columns = (
        Column("name"), Column("sm", right=True), Column("num_sms", "SMs", right=True),
        Column("smem_per_block_kib", "smem KiB", right=True), Column("memory_gb", "GB", right=True),
        Column("bandwidth_gb_s", "GB/s", right=True), Column("l2_mb", "L2 MB", right=True),
        Column("half_tflop_s", "16-bit", right=True), Column("fp8_tflop_s", "fp8", right=True),
        Column("source", use=0), Column("peak_source", use=0),
    )  # fmt: skip
    write_table(Table("gpus", columns, rows), output_format.value)
