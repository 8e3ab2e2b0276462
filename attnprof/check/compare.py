"""One recorded call: the launches that were predicted for it against those that ran, field by field."""

from __future__ import annotations

from collections.abc import Sequence

from attnprof.check.observed_shape import ObservedShape
from attnprof.check.verdicts import Verdict
from attnprof.dispatch.libraries import versions_spelling
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.dispatch.names.spelled_constants import function_of
from attnprof.dispatch.names.spelling import as_many_arguments, plain_template, spelling_difference
from attnprof.dispatch.names.template import template_difference, template_fields
from attnprof.model import KernelLaunch, Prediction
from attnprof.nouns import count_of

_Pairs = list[tuple[KernelLaunch, KernelLaunch]]


def compare(prediction: Prediction, shape: ObservedShape | None) -> tuple[Verdict, str]:
    """The verdict on one call's launches, and what differs in words.

    A match means that all was read and is as predicted, and that nothing else ran: a cut name, or a grid or
    block that the trace does not hold, is "not read", whatever else agrees.
    """
    if prediction.error is not None:
        if shape is None:
            return Verdict.MATCH, f"refused, as predicted: {prediction.error}"
        return Verdict.UNEXPECTED, f"{shape.main.kernel} ran; predicted a refusal: {prediction.error}"
    if shape is None:
        if not prediction.launches:
            return Verdict.MATCH, "nothing launched, as predicted"
        return Verdict.MISSING, f"predicted {_names(prediction.launches)}, no attention kernel ran"
    if not prediction.launches:
        return Verdict.UNEXPECTED, f"{shape.main.kernel} ran; predicted no launch"
    wanted = [launch for launch in prediction.launches if not _plans(launch, shape.before is not None)]
    ran = shape.ran
    if [_kind(launch) for launch in wanted] != [_kind(launch) for launch in ran]:
        return Verdict.WRONG_KERNEL, _other_kernels(wanted, ran)
    pairs = list(zip(wanted, ran, strict=True))
    if shape.num_splits is not None and shape.num_splits != prediction.num_splits:
        ran_splits = count_of(shape.num_splits, "split")
        return Verdict.WRONG_NUM_SPLITS, f"ran {ran_splits}; predicted {prediction.num_splits}"
    for launch, ran_launch in pairs:
        difference = _name_difference(launch.kernel, ran_launch.kernel)
        if difference:
            return Verdict.WRONG_TEMPLATE, f"{_names([launch])}: {difference}"
    for launch, ran_launch in pairs:
        if _other_size(launch.grid, ran_launch.grid) or _other_size(launch.block, ran_launch.block):
            return Verdict.WRONG_GRID, (
                f"{_names([launch])}: ran grid {ran_launch.grid} block {ran_launch.block}; "
                f"predicted grid {launch.grid} block {launch.block}"
            )
    unread = _unread(pairs)
    if unread:
        return Verdict.NOT_READ, f"{', '.join(unread)}; the rest is as predicted"
    return Verdict.MATCH, ""


def _plans(launch: KernelLaunch, looked_for: bool) -> bool:
    """Whether it is no kernel of the call's own to compare: what plans all calls of a step, once, and what
    plans one packed batch where nobody ``looked_for`` it.
    """
    role = parse_kernel_name(launch.kernel).role
    return role == "metadata" or (role == "scheduler" and not looked_for)


def _kind(launch: KernelLaunch) -> tuple[str, str]:
    """Library and family: PyTorch's copy has flash_attn's kernels under its own name."""
    signature = parse_kernel_name(launch.kernel)
    return signature.library, signature.family


def _other_kernels(wanted: Sequence[KernelLaunch], ran: Sequence[KernelLaunch]) -> str:
    if [family for _, family in map(_kind, wanted)] != [family for _, family in map(_kind, ran)]:
        return f"ran {_names(ran)}; predicted {_names(wanted)}"
    theirs, ours = (
        dict.fromkeys(library for library, _ in map(_kind, launches)) for launches in (ran, wanted)
    )
    return f"ran {_names(ran)} of {' and '.join(theirs)}; predicted {' and '.join(ours)}'s"


def _name_difference(predicted: str, observed: str) -> str:
    """What differs in two names of one kernel; "" where nothing does, as far as both can be read."""
    if (function_of(predicted) is None) != (function_of(observed) is None):
        which = (
            "does not spell its constants out" if function_of(observed) is None else "spells constants out"
        )
        return f"its name {which}, as another version's"
    unknown = template_fields(predicted) is not None and template_fields(observed) is None
    if unknown and not as_many_arguments(predicted, observed):
        return ""  # cut, or of a build with other arguments
    found = template_difference(predicted, observed) or spelling_difference(predicted, observed)
    return found or _of_other_versions(predicted, observed)


def _of_other_versions(predicted: str, observed: str) -> str:
    """That no version of a library has both names; "" where one has, or its names do not tell."""
    ours, theirs = versions_spelling(predicted), versions_spelling(observed)
    both = [name for name in ours if name in theirs]
    if not both or any(set(ours[name]) & set(theirs[name]) for name in both):
        return ""
    name = both[0]
    return f"ran the kernel of {name} {theirs[name][-1]}, predicted that of {ours[name][-1]}"


def _other_size(predicted: tuple[int, int, int], ran: tuple[int, int, int]) -> bool:
    """Whether a grid or block is another one; all zeros mean that the trace does not hold it."""
    return any(ran) and predicted != ran


def _unread(pairs: _Pairs) -> list[str]:
    """What of the launches could not be read."""
    found = []
    for launch, ran in pairs:
        name = _names([launch])
        templated = bool(plain_template(launch.kernel))
        read = template_fields(ran.kernel) is not None or (
            template_fields(launch.kernel) is None and bool(plain_template(ran.kernel))
        )
        if templated and not read:
            found.append(f"the template arguments of {name} cannot be read")
        found += [
            f"the trace does not hold the {what} of {name}"
            for what, size in (("grid", ran.grid), ("block", ran.block))
            if not any(size)
        ]
    return found


def _names(launches: Sequence[KernelLaunch]) -> str:
    return " + ".join(parse_kernel_name(launch.kernel).kernel for launch in launches)
