"""Library versions as comparable tuples, and the prediction of libraries that each version decides alike."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, Prediction

Version = tuple[int, ...]
_VERSION = re.compile(
    r"v?(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?(?:\.post(\d{1,9}))?(?:[+.\-a-z].*)?", re.IGNORECASE
)


class Predict(Protocol):
    """What a library's module ``versions`` calls ``predict``."""

    def __call__(
        self, call: AttentionCall, gpu: Gpu, version: str = ..., *, explain: bool = ...
    ) -> Prediction: ...


def same_in_all(
    rules_for: Callable[[str], object], predict_call: Callable[[AttentionCall, Gpu], Prediction], newest: str
) -> Predict:
    """The prediction of a library whose known versions decide alike; its reasons come with it.

    ``rules_for`` raises UsageError for a version that is not known.
    """

    def predict(call: AttentionCall, gpu: Gpu, version: str = newest, *, explain: bool = False) -> Prediction:
        del explain
        rules_for(version)
        return predict_call(call, gpu)

    return predict


def parse_version(text: str, *, library: str = "", oldest: str = "", newest: str = "") -> Version:
    """(major, minor, patch, post) of ``text``; local parts such as ``+cu128`` are ignored.

    Raises UsageError where ``text`` is no version, or lies outside ``oldest`` to ``newest`` where these are
    given: rules are never guessed for versions nobody has read.
    """
    match = _VERSION.fullmatch(text.strip())
    if not match:
        raise UsageError(f"{text!r} is not a {library or 'library'} version", hint="give it as 2.8.3")
    version = tuple(int(part or 0) for part in match.groups())
    if oldest and version < parse_version(oldest):
        raise UsageError(
            f"{library} {text} is not modelled: the oldest version with known rules is {oldest}",
            hint=f"give a version from {oldest} to {newest}",
        )
    if newest and version > parse_version(newest):
        raise UsageError(
            f"{library} {text} is not modelled: the newest version with known rules is {newest}",
            hint=f"give --version {newest} to predict with the newest known rules",
        )
    return version
