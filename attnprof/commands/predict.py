"""attnprof predict: what a library would launch, for one call from flags or for a file of calls."""

from __future__ import annotations

import sys
from enum import Enum
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnprof.commands.call_flags import call_flags, call_from_flags, engine_from_flags
from attnprof.errors import AttnprofError, UsageError

if TYPE_CHECKING:
    from attnprof.dispatch.library import AnswerTo, LaunchFields
    from attnprof.model import AttentionCall, Gpu, Prediction

_BLOCK = 1024  # lines of a file whose answers are written together


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
    from attnprof.calls.call_files import read_lines
    from attnprof.calls.calls_alike import CallsAlike
    from attnprof.dispatch.libraries import alike
    from attnprof.gpus import gpu_from_options

    def prepare(call: AttentionCall, gpu: Gpu, version: str | None) -> AnswerTo:
        return alike(call, gpu, flags["version"] or version)

    default_gpu: Gpu | None = gpu_from_options(flags["gpu"], flags["sms"], flags["sm"])
    read = CallsAlike(prepare, default_gpu).read
    lines = read_lines(path)
    size = _BLOCK if path.is_file() else 1  # of a pipe: its other end may wait for each answer
    failure: Exception | None = None
    while failure is None:
        answers: list[str] = []
        number = 0
        try:
            for number, line in islice(lines, size):
                answer_to, batch, seqlen_q, seqlen_k = read(line)
                answer = answer_to(batch, seqlen_q, seqlen_k)
                answers.append(
                    launched_text(*answer) if isinstance(answer, tuple) else prediction_text(answer)
                )
                number = 0
        except Exception as error:  # told when the calls before it are answered
            failure = _at_line(error, path, number)
        sys.stdout.write("".join(answers))
        if failure is None and len(answers) < size:
            return
    raise failure


def _at_line(error: Exception, path: Path, number: int) -> Exception:
    """An error of a line, naming it; what the reading of the file says is as it was."""
    if not number or not isinstance(error, AttnprofError):
        return error
    told = UsageError(f"{path}:{number}: {error.message}", hint=error.hint)
    told.__cause__ = error
    return told


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
    launches = tuple((one.kernel, one.grid, one.block, one.dynamic_smem) for one in prediction.launches)
    return launched_text(prediction.num_splits, launches)


def launched_text(num_splits: int | None, launches: tuple[LaunchFields, ...]) -> str:
    """The same of a call that is launched and no more."""
    told = [
        f"{_before_grid(kernel)}{x}, {y}, {z}{_after_grid(block)}" for kernel, (x, y, z), block, _ in launches
    ]
    splits = "null" if num_splits is None else num_splits
    return f'{{"error": null, "num_splits": {splits}, "launches": [{", ".join(told)}]}}\n'


@lru_cache(maxsize=4096)
def _before_grid(kernel: str) -> str:
    import json

    return f'{{"kernel": {json.dumps(kernel)}, "grid": ['


@lru_cache(maxsize=256)
def _after_grid(block: tuple[int, int, int]) -> str:
    return f'], "block": {list(block)}}}'
