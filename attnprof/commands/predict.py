"""attnprof predict: what a library would launch, for one call from flags or for a file of calls."""

from __future__ import annotations

import sys
from contextlib import suppress
from enum import Enum
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnprof.commands.call_flags import call_flags, call_from_flags, engine_from_flags
from attnprof.errors import AttnprofError, UsageError

if TYPE_CHECKING:
    from attnprof.model import AttentionCall, Gpu, Prediction

    _Asked = tuple[int, AttentionCall, Gpu, str | None]

_BLOCK = 1024  # lines of a file that are answered together
_WORTH_FORESEEING = 512  # calls: fewer are answered before numpy is imported


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
    from attnprof.calls.call_files import parse_call, read_json_lines
    from attnprof.dispatch import predict as predict_call
    from attnprof.gpus import gpu_from_options

    default_gpu: Gpu | None = gpu_from_options(flags["gpu"], flags["sms"], flags["sm"])
    lines = read_json_lines(path)
    size = _BLOCK if path.is_file() else 1  # of a pipe: its other end may wait for each answer
    failure: Exception | None = None
    while failure is None:
        calls: list[_Asked] = []
        answers: list[str] = []
        number = 0
        try:
            for number, value in islice(lines, size):
                call, gpu, version = parse_call(value, default_gpu)
                calls.append((number, call, gpu, flags["version"] or version))
                number = 0
        except Exception as error:  # told when the calls before it are answered
            failure = _at_line(error, path, number)
        try:
            _foresee(calls)
            for number, call, gpu, version in calls:  # noqa: B007  # an error is told with it
                answers.append(prediction_text(predict_call(call, gpu, version)))
        except Exception as error:
            failure = _at_line(error, path, number)
        sys.stdout.write("".join(answers))
        if failure is None and len(calls) < size:
            return
    raise failure


def _at_line(error: Exception, path: Path, number: int) -> Exception:
    """An error of a call, naming its line; what the reading says names it already."""
    if not number or not isinstance(error, AttnprofError):
        return error
    told = UsageError(f"{path}:{number}: {error.message}", hint=error.hint)
    told.__cause__ = error
    return told


def _foresee(calls: list[_Asked]) -> None:
    """Has the heuristic answer what these calls are likely to ask it, all at once."""
    if len(calls) < _WORTH_FORESEEING:
        return
    from attnprof.dispatch.heuristic import foresee
    from attnprof.dispatch.libraries import library

    searches = []
    for _, call, gpu, version in calls:
        with suppress(AttnprofError):  # which its prediction will tell
            asked = library(call.library)
            searches.append(asked.likely_search(call, gpu, version or asked.default_version))
    foresee(search for search in searches if search is not None)


def prediction_text(prediction: Prediction) -> str:
    """The line of JSON that :func:`prediction_row` is; of the usual ones it is put together from parts."""
    import json

    if (
        prediction.backend is not None
        or prediction.error is not None
        or prediction.plan
        or prediction.splits_of_requests
    ):
        return json.dumps(prediction_row(prediction)) + "\n"
    launches = []
    for launch in prediction.launches:
        grid, block = ", ".join(map(str, launch.grid)), ", ".join(map(str, launch.block))
        launches.append(f'{{"kernel": {_quoted(launch.kernel)}, "grid": [{grid}], "block": [{block}]}}')
    splits = "null" if prediction.num_splits is None else prediction.num_splits
    return f'{{"error": null, "num_splits": {splits}, "launches": [{", ".join(launches)}]}}\n'


@lru_cache(maxsize=4096)
def _quoted(text: str) -> str:
    import json

    return json.dumps(text)
