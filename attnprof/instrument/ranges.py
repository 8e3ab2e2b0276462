"""Named CPU ranges with an integer payload, as the recorder in use can see them."""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from attnprof.instrument.nvtx_injection import Injection

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
    """NVTX push/pop ranges in one domain: constant registered message, integer payload."""

    def __init__(self, domain: str = DOMAIN) -> None:
        from attnprof.instrument.nvtx_injection import load_injection

        self._injection = load_injection(domain)
        self.active = self._injection is not None

    def channel(self, message: str) -> Channel:
        return _SilentChannel() if self._injection is None else _NvtxChannel(self._injection, message)


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
    def __init__(self, injection: Injection, message: str) -> None:
        self._attributes = injection.attributes(message)
        self._reference = ctypes.byref(self._attributes)
        self._domain, self._push, self._pop = injection.domain, injection.push, injection.pop

    def push(self, payload: int) -> None:
        self._attributes.payload = payload
        self._push(self._domain, self._reference)

    def pop(self) -> None:
        self._pop(self._domain)


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
