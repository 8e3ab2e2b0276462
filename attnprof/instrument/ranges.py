"""Named CPU ranges with an integer payload, as the recorder in use can see them."""

from __future__ import annotations

import threading
from typing import Any, Protocol

DOMAIN = "attnprof"


class Channel(Protocol):
    """Ranges of one constant message; push and pop nest per thread."""

    def push(self, payload: int) -> None: ...
    def pop(self) -> None: ...


class Ranges(Protocol):
    """Makes the channels; ``active`` is False where no range can arrive."""

    active: bool

    def channel(self, message: str) -> Channel: ...


class NoRanges:
    """For a run without a recorder."""

    active = False

    def channel(self, message: str) -> Channel:
        return _SilentChannel()


class NvtxRanges:
    """NVTX push/pop ranges in domain "attnprof": constant registered message, integer payload."""

    def __init__(self) -> None:
        probe = _NvtxChannel("attn")
        self.active = probe.attributes is not None

    def channel(self, message: str) -> Channel:
        return _NvtxChannel(message) if self.active else _SilentChannel()


class RecordFunctionRanges:
    """torch.profiler annotations named "attnprof:MESSAGE:PAYLOAD": their arguments do not reach the trace."""

    active = True

    def channel(self, message: str) -> Channel:
        return _RecordFunctionChannel(message)


class _SilentChannel:
    def push(self, payload: int) -> None:
        pass

    def pop(self) -> None:
        pass


class _NvtxChannel(threading.local):
    # One attribute object per message and thread, its payload rewritten for each range: a message built per
    # range costs four times as much, and two threads must not share a payload.
    def __init__(self, message: str) -> None:
        import nvtx

        # nvtx caches attributes by their arguments; the first payload keeps this thread's object its own.
        annotation: Any = nvtx.annotate(message, domain=DOMAIN, payload=threading.get_ident())
        self.attributes: Any = getattr(annotation, "attributes", None)  # None: nvtx found no profiler
        self._enter = annotation.__enter__
        self._exit = annotation.__exit__

    def push(self, payload: int) -> None:
        self.attributes.payload = payload
        self._enter()

    def pop(self) -> None:
        self._exit()


class _RecordFunctionChannel(threading.local):
    def __init__(self, message: str) -> None:
        self._prefix = f"{DOMAIN}:{message}:"
        self._open: list[Any] = []

    def push(self, payload: int) -> None:
        import torch

        annotation: Any = torch.autograd.profiler.record_function(f"{self._prefix}{payload}")
        annotation.__enter__()
        self._open.append(annotation)

    def pop(self) -> None:
        self._open.pop().__exit__(None, None, None)
