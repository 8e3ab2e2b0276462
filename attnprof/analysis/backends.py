"""Which backend of a library ran each call, and why no other, as far as arguments were recorded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from attnprof.check.check_run import CheckResult
from attnprof.check.recording import Recording
from attnprof.dispatch.libraries import all_libraries, library, rules_known
from attnprof.model import Reason


@dataclass(frozen=True, slots=True)
class BackendUse:
    """Calls that one backend of ``library`` took, for one and the same reason.

    ``version``: the one whose rules were asked, "" where it is not known; ``stated``: the run states it, it
    is not one that launches the same.  ``recorded``: the calls' arguments were recorded.
    ``ruled_out`` has a Reason per other backend, () where that cannot be told.  ``otherwise``: the backend
    that the rules take for these arguments, where it is another one.
    """

    library: str
    backend: str
    version: str = ""
    stated: bool = False
    recorded: bool = True
    ruled_out: tuple[Reason, ...] = ()
    otherwise: str = ""


def backend_uses(run: Recording, result: CheckResult) -> list[tuple[BackendUse, int]]:
    """Every use and its number of calls, the most frequent first.

    What a kernel shows goes before what the library itself answered when it was called.
    """
    shapes = dict(zip(run.observed.seq.tolist(), run.observed.shape.tolist(), strict=True))
    uses: Counter[BackendUse] = Counter()
    for record in run.records:
        if not record.on_cuda or record.fields.get("not_described") is not None:
            continue
        shape = shapes.pop(record.seq, None)
        asked = library(record.library)
        ran = "" if shape is None else asked.backend_of_kernel(run.observed.shapes[shape].main.library)
        ran = ran or str(record.fields.get("backend") or "")
        if ran:
            uses[_use(run, result, record.library, record.fields, ran)] += 1
    unknown = ~np.isin(run.observed.seq, [record.seq for record in run.records])
    for shape, calls in enumerate(np.bincount(run.observed.shape[unknown]).tolist()):
        if calls and (found := _of_kernel(run, shape)):
            uses[BackendUse(*found, recorded=False)] += calls
    return uses.most_common()


def _of_kernel(run: Recording, shape: int) -> tuple[str, str] | None:
    """The library, and the backend of it, that alone launch such a kernel."""
    main = run.observed.shapes[shape].main
    found = {name: each.backend_of_kernel(main.library) for name, each in all_libraries().items()}
    return next(((name, backend) for name, backend in found.items() if backend), None)


def _use(run: Recording, result: CheckResult, name: str, fields: dict[str, object], ran: str) -> BackendUse:
    installed = (run.config.get("workload") or {}).get("versions") or {}
    version = str(installed.get(name) or (result.version if result.library == name else "") or "")
    stated, gpu = bool(installed.get(name)), result.gpu
    if gpu is None or gpu.vendor != library(name).vendor or not version or not rules_known(name, version):
        return BackendUse(name, ran, version, stated)
    told = library(name).backend_of_record(fields, gpu, version)
    if told is None:
        return BackendUse(name, ran, version, stated)
    if told.name != ran:
        return BackendUse(name, ran, version, stated, otherwise=told.name)
    return BackendUse(name, ran, version, stated, ruled_out=told.ruled_out)
