"""attnprof predict: what a library would launch, for one call from flags or for a file of calls."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnprof.commands.call_flags import call_flags, call_from_flags, engine_from_flags
from attnprof.errors import AttnprofError, UsageError

if TYPE_CHECKING:
    from attnprof.model import Gpu, Prediction


class PredictFormat(str, Enum):
    """How predictions are written."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


@call_flags
def predict(
    call_flags: dict[str, Any],
    calls: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Predict every call of a JSON Lines file (.jsonl or .jsonl.gz) instead of flags.",
        ),
    ] = None,
    output_format: Annotated[
        PredictFormat, typer.Option("--format", help="For one call; --calls always writes JSON Lines.")
    ] = PredictFormat.TABLE,
) -> None:
    """Predict the kernels, grids and num_splits of attention calls, without a GPU.

    \b
    Examples:
      attnprof predict --seqlen-k 4096 --batch 8 --gpu a100
      attnprof predict --calls calls.jsonl.gz --format jsonl
    """
    if calls is not None:
        if call_flags["engine"] is not None:
            raise UsageError("--calls and --engine describe calls in two ways", hint="give one of them")
        _predict_file(calls, call_flags)
        return
    import json

    if call_flags["engine"] is not None:
        _predict_engine(call_flags, output_format)
        return

    from attnprof.dispatch.libraries import predict_by_function as predict_call

    call, gpu, version = call_from_flags(call_flags)
    prediction = predict_call(call, gpu, version, explain=True)
    if output_format is PredictFormat.TABLE:
        from attnprof.report.text import print_prediction

        print_prediction(call, gpu, version, prediction)
    else:
        print(json.dumps(prediction_row(prediction)))


def prediction_row(prediction: Prediction) -> dict[str, Any]:
    """A prediction as the bulk format has it."""
    backend = {} if prediction.backend is None else {"backend": prediction.backend}
    splits = list(prediction.splits_of_requests)
    return {
        **backend,
        "error": prediction.error,
        "num_splits": prediction.num_splits,
        "launches": [
            {"kernel": launch.kernel, "grid": list(launch.grid), "block": list(launch.block)}
            for launch in prediction.launches
        ],
        **({"plan": dict(prediction.plan)} if prediction.plan else {}),
        **(
            {"splits_of_requests": splits, "all_lengths_known": prediction.all_lengths_known}
            if splits
            else {}
        ),
    }


def _predict_engine(flags: dict[str, Any], output_format: PredictFormat) -> None:
    """What an engine's backend would launch; JSON has the engine's fields before a prediction's."""
    import json

    from attnprof.dispatch.engines.outcome import outcome

    question = engine_from_flags(flags)
    if output_format is PredictFormat.TABLE:
        from attnprof.analysis.engines import explain_engine
        from attnprof.report.engines import print_engine

        print_engine(explain_engine(*question))
        return
    made = outcome(*question)
    row = prediction_row(made.prediction) if made.prediction else {"not_predicted": made.not_predicted}
    asked = {"engine": made.engine, "engine_version": made.version, "backend": made.choice.backend}
    library = {"library": made.call.library if made.call else None, "version": made.library_version}
    print(json.dumps(row | asked | library))


def _predict_file(path: Path, flags: dict[str, Any]) -> None:
    """One line out per line in, in the same order; the line of a bad call is named and ends the work."""
    import json

    from attnprof.calls.call_files import parse_call, read_json_lines
    from attnprof.dispatch import predict as predict_call
    from attnprof.gpus import gpu_from_options

    default_gpu: Gpu | None = gpu_from_options(flags["gpu"], flags["sms"], flags["sm"])
    write, encode = sys.stdout.write, json.JSONEncoder().encode
    for number, value in read_json_lines(path):
        try:
            call, gpu, version = parse_call(value, default_gpu)
            prediction = predict_call(call, gpu, flags["version"] or version)
        except AttnprofError as error:
            raise UsageError(f"{path}:{number}: {error.message}", hint=error.hint) from error
        write(encode(prediction_row(prediction)) + "\n")
