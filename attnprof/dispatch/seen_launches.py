"""Launches that ran, beside those that a library makes: whether they are the same, and what differs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.dispatch.names.spelling import namespace, plain_template
from attnprof.dispatch.names.template import template_fields
from attnprof.model import KernelLaunch

_PARAMETERS = re.compile(r"\(((?:\w+::)?)Flash_fwd_params\)$")
_KINDS = {"combine": "combine kernel's ", "scheduler": "prepare kernel's "}


class SeenLaunches:
    """The launches of one call as a trace shows them: a name may be cut, a grid or block may be absent."""

    def __init__(self, launches: Sequence[KernelLaunch]) -> None:
        self.launches = tuple(launches)
        self._signatures = tuple(parse_kernel_name(launch.kernel) for launch in self.launches)

    def are(self, predicted: Sequence[KernelLaunch]) -> bool:
        """Whether these are the predicted launches, in all that can be read."""
        if len(predicted) != len(self.launches):
            return False
        for launch, ran in zip(predicted, self.launches, strict=True):
            if _other(launch.grid, ran.grid) or _other(launch.block, ran.block):
                return False
        return all(
            _same_kernel(launch.kernel, ran.kernel)
            for launch, ran in zip(predicted, self.launches, strict=True)
        )

    def differences(self, predicted: Sequence[KernelLaunch]) -> list[str]:
        """The fields in which these differ from the predicted launches, in words."""
        found = []
        if len(predicted) != len(self.launches):
            count = f"{len(self.launches)} kernel{'' if len(self.launches) == 1 else 's'}"
            found.append(f"{count}: the library launches {len(predicted)}")
        for launch, ran, signature in zip(predicted, self.launches, self._signatures, strict=False):
            kernel = _KINDS.get(signature.role, "")
            wanted = parse_kernel_name(launch.kernel)
            if wanted.family != signature.family:
                found.append(f"kernel {signature.kernel}, the library's {wanted.kernel}")
                continue
            theirs, ours = dict(template_fields(ran.kernel) or ()), dict(template_fields(launch.kernel) or ())
            found += [
                f"{kernel}{name} {theirs.get(name)}, the library's {ours.get(name)}"
                for name in dict.fromkeys([*theirs, *ours])
                if theirs.get(name) != ours.get(name)
            ]
            found += [
                f"{kernel}{what} {_size(b)}, the library's {_size(a)}"
                for what, a, b in (("grid", launch.grid, ran.grid), ("block", launch.block, ran.block))
                if any(b) and a != b
            ]
            if found:
                continue
            if plain_template(ran.kernel) not in (None, plain_template(launch.kernel)):
                found.append(f"{kernel}template arguments that the library spells otherwise")
            elif _other_namespace(launch.kernel, ran.kernel):
                theirs_in, ours_in = _namespaces(ran.kernel), _namespaces(launch.kernel)
                found.append(f"{kernel}namespace {theirs_in}, the library's {ours_in}")
        return found


@lru_cache(maxsize=8192)
def _same_kernel(predicted: str, ran: str) -> bool:
    """Whether two names are of one kernel, as far as both can be read."""
    if parse_kernel_name(predicted).family != parse_kernel_name(ran).family:
        return False
    if template_fields(predicted) != template_fields(ran):
        return False
    plain = plain_template(ran)
    return plain in (None, plain_template(predicted)) and not _other_namespace(predicted, ran)


def _other(predicted: tuple[int, int, int], ran: tuple[int, int, int]) -> bool:
    return any(ran) and predicted != ran


def _other_namespace(predicted: str, ran: str) -> bool:
    ours, theirs = namespace(predicted), namespace(ran)
    if ours is None or theirs is None:
        return False
    wanted, taken = _PARAMETERS.search(predicted), _PARAMETERS.search(ran)
    return ours != theirs or (wanted is not None and taken is not None and wanted[1] != taken[1])


def _namespaces(name: str) -> str:
    """The namespace of a kernel, and that of its parameters where it is another."""
    own, parameters = namespace(name) or "(none)", _PARAMETERS.search(name)
    other = (parameters[1] or "(none)") if parameters else own
    return own if other == own else f"{own} with parameters of {other}"


def _size(size: tuple[int, int, int]) -> str:
    return "x".join(map(str, size))
