"""NVTX through a recorder's own library: stand-ins in Python play the recorder's side of the interface."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_uint32, c_void_p
from typing import Any

import pytest

from attnprof.instrument import nvtx_injection
from attnprof.instrument.nvtx_injection import Injection, load_injection
from attnprof.instrument.ranges import NvtxRanges

CORE, CORE2 = 1, 5
PUSH, POP, REGISTER, DOMAIN = 4, 5, 10, 12  # nvtxTypes.h, NVTX_CBID_CORE2_*


class Recorder:
    """What nsys does with the tables it is handed: it looks at them as C would, and writes its functions in.

    ``missing`` are the functions it does not have. ``seen`` is what it was told.
    """

    def __init__(self, *missing: int, refuses: bool = False) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.names: dict[int, str] = {}
        self._refuses = refuses
        functions: dict[int, Any] = {
            DOMAIN: ctypes.CFUNCTYPE(c_void_p, c_char_p)(self._domain),
            REGISTER: ctypes.CFUNCTYPE(c_void_p, c_void_p, c_char_p)(self._register),
            PUSH: ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p)(self._push),
            POP: ctypes.CFUNCTYPE(c_int, c_void_p)(self._pop),
        }
        self._functions = {number: one for number, one in functions.items() if number not in missing}

    def initialize(self, get_export_table: Any) -> int:
        if self._refuses:
            return 0
        assert get_export_table(2) is None  # a table nobody has
        versions = get_export_table(3)
        assert ctypes.cast(versions, POINTER(c_uint32))[2] == 3  # after struct_size: the version
        size = ctypes.cast(get_export_table(1), POINTER(c_size_t))[0]
        assert size == 2 * ctypes.sizeof(c_void_p)
        address = ctypes.cast(get_export_table(1), POINTER(c_void_p))[1]
        get_functions = ctypes.CFUNCTYPE(
            c_int, c_uint32, POINTER(POINTER(POINTER(c_void_p))), POINTER(c_uint)
        )(address)
        for module in (CORE, CORE2):
            table, length = POINTER(POINTER(c_void_p))(), c_uint()
            assert get_functions(module, ctypes.byref(table), ctypes.byref(length)) == 1
            assert length.value == 16
            if module == CORE2:
                for number, function in self._functions.items():
                    table[number][0] = ctypes.cast(function, c_void_p)
        assert get_functions(99, ctypes.byref(table), ctypes.byref(length)) == 0
        return 1

    def _domain(self, name: bytes) -> int:
        return self._named(name)

    def _register(self, domain: int, name: bytes) -> int:
        self.seen.append(("register", self.names[domain], name.decode()))
        return self._named(name)

    def _named(self, name: bytes) -> int:
        handle = 0x1000 + len(self.names)
        self.names[handle] = name.decode()
        return handle

    def _push(self, domain: int, attributes: int) -> int:
        raw = ctypes.string_at(attributes, 48)
        version, size = int.from_bytes(raw[0:2], "little"), int.from_bytes(raw[2:4], "little")
        payload_type, message_type = (
            int.from_bytes(raw[16:20], "little"),
            int.from_bytes(raw[32:36], "little"),
        )
        assert (version, size, payload_type, message_type) == (3, 48, 2, 3)
        payload = int.from_bytes(raw[24:32], "little", signed=True)
        message = self.names[int.from_bytes(raw[40:48], "little")]
        self.seen.append(("push", self.names[domain], message, payload))
        return 0

    def _pop(self, domain: int) -> int:
        self.seen.append(("pop", self.names[domain]))
        return 0


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> Callable[[Recorder], NvtxRanges]:
    def make(recorder: Recorder) -> NvtxRanges:
        injection = Injection(recorder.initialize, "attnprof")
        monkeypatch.setattr(nvtx_injection, "load_injection", lambda name: injection)
        return NvtxRanges()

    return make


def test_a_range_carries_its_domain_message_and_payload(ranges) -> None:
    recorder = Recorder()
    attn, layer = (ranges(recorder).channel(message) for message in ("attn", "layer"))
    layer.push(1)
    attn.push(-(1 << 40))
    attn.pop()
    attn.push(7)
    attn.pop()
    layer.pop()
    told = [event[1:] for event in recorder.seen if event[0] == "push"]
    assert told == [("attnprof", "layer", 1), ("attnprof", "attn", -(1 << 40)), ("attnprof", "attn", 7)]
    assert recorder.seen.count(("pop", "attnprof")) == 3


def test_a_message_is_registered_once_and_two_threads_do_not_share_a_payload(ranges) -> None:
    recorder = Recorder()
    attn = ranges(recorder).channel("attn")
    barrier = threading.Barrier(2)

    def work(first: int) -> None:
        for payload in range(first, first + 50):
            barrier.wait()
            attn.push(payload)
            attn.pop()

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    payloads = sorted(event[3] for event in recorder.seen if event[0] == "push")
    assert payloads == [*range(50), *range(1000, 1050)]
    assert recorder.seen.count(("register", "attnprof", "attn")) == 1


@pytest.mark.parametrize(
    "recorder",
    [Recorder(refuses=True), Recorder(PUSH), Recorder(REGISTER)],
    ids=["refuses", "push", "strings"],
)
def test_a_recorder_without_ranges_is_an_error(recorder: Recorder) -> None:
    with pytest.raises(OSError, match="recorder"):
        Injection(recorder.initialize, "attnprof")


@pytest.mark.parametrize("library", [None, "", "/nowhere/libToolsInjection64.so", "libc.so.6"])
def test_without_a_library_that_has_the_interface_no_range_is_made(
    library: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(nvtx_injection.LIBRARY, raising=False)
    if library is not None:
        monkeypatch.setenv(nvtx_injection.LIBRARY, library)
    load_injection.cache_clear()
    silent = NvtxRanges()
    load_injection.cache_clear()
    assert not silent.active
    silent.channel("attn").push(1)
    silent.channel("attn").pop()
