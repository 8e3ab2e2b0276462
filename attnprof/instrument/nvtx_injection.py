"""NVTX as the recorder itself offers it: its injection library, asked for the functions that it has.

The package nvtx asks from 0.2.12 on whether its domain is enabled, a function that nsys 2022.4 and 2023.4 do
not have, takes the missing answer for no and stays silent. What every recorder has is the interface of NVTX
version 3: a library named by NVTX_INJECTION64_PATH whose ``InitializeInjectionNvtx2`` fills a table of
functions. Source: NVTX release-v3, nvtxInit.h and nvtxTypes.h.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_int32, c_int64, c_size_t, c_uint, c_uint16, c_uint32, c_void_p
from typing import Any

LIBRARY = "NVTX_INJECTION64_PATH"  # nsys sets it for the program that it records
_CALLBACKS, _VERSION_INFO = 1, 3  # the export tables a recorder may ask for
_VERSION = 3
_CORE, _CORE2 = 1, 5  # modules: functions without a domain and with one; nsys 2022.4 asks for both
_MODULE_SIZE = 16  # of either
_RANGE_PUSH, _RANGE_POP, _REGISTER_STRING, _DOMAIN_CREATE = 4, 5, 10, 12  # in CORE2
_INT64 = 2  # NVTX_PAYLOAD_TYPE_INT64
_REGISTERED = 3  # NVTX_MESSAGE_TYPE_REGISTERED

# PYFUNCTYPE keeps the GIL, as the package nvtx does: letting go of it for a few hundred ns costs more.
_GetExportTable = ctypes.CFUNCTYPE(c_void_p, c_uint32)
_GetFunctions = ctypes.CFUNCTYPE(c_int, c_uint32, POINTER(c_void_p), POINTER(c_uint))
_SetVersion = ctypes.CFUNCTYPE(None, c_uint32)
_DomainCreate = ctypes.PYFUNCTYPE(c_void_p, c_char_p)
_RegisterString = ctypes.PYFUNCTYPE(c_void_p, c_void_p, c_char_p)
_RangePush = ctypes.PYFUNCTYPE(c_int, c_void_p, c_void_p)
_RangePop = ctypes.PYFUNCTYPE(c_int, c_void_p)

Initialize = Callable[[Any], int]


class _Callbacks(ctypes.Structure):
    _fields_ = (("struct_size", c_size_t), ("get_functions", _GetFunctions))


class _VersionInfo(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        ("version", c_uint32),
        ("reserved", c_uint32),
        ("set_version", _SetVersion),
    )


class _Module:
    """The functions of a module by number, and the places where the recorder writes each; 0 has none."""

    def __init__(self) -> None:
        self.functions = (c_void_p * _MODULE_SIZE)()
        self.places = (c_void_p * (_MODULE_SIZE + 1))()
        for number in range(1, _MODULE_SIZE):
            self.places[number] = ctypes.addressof(self.functions) + number * ctypes.sizeof(c_void_p)


class _Attributes(ctypes.Structure):
    """nvtxEventAttributes_t, with a signed payload of 64 bits and a registered message."""

    _fields_ = (
        ("version", c_uint16),
        ("size", c_uint16),
        ("category", c_uint32),
        ("color_type", c_int32),
        ("color", c_uint32),
        ("payload_type", c_int32),
        ("reserved", c_int32),
        ("payload", c_int64),
        ("message_type", c_int32),
        ("message", c_void_p),
    )


class Injection:
    """The recorder's own functions, ``push(domain, attributes)`` and ``pop(domain)``, for one domain.

    ``initialize`` is InitializeInjectionNvtx2: it takes the function that gives our export tables. Raises
    OSError where the recorder refuses, or has no ranges in domains.
    """

    def __init__(self, initialize: Initialize, name: str) -> None:
        self._modules = {module: _Module() for module in (_CORE, _CORE2)}
        # The recorder keeps what it is handed for as long as the process lives, and so does load_injection.
        self._callbacks = _Callbacks(ctypes.sizeof(_Callbacks), _GetFunctions(self._functions))
        self._version = _VersionInfo(
            ctypes.sizeof(_VersionInfo), _VERSION, 0, _SetVersion(lambda version: None)
        )
        self._get_export_table = _GetExportTable(self._export_table)
        if not initialize(self._get_export_table):
            raise OSError("the recorder refused the NVTX interface")
        given = [function or 0 for function in self._modules[_CORE2].functions]
        if not all(given[number] for number in (_RANGE_PUSH, _RANGE_POP, _REGISTER_STRING, _DOMAIN_CREATE)):
            raise OSError("the recorder takes no NVTX ranges")
        self.push, self.pop = _RangePush(given[_RANGE_PUSH]), _RangePop(given[_RANGE_POP])
        self._register = _RegisterString(given[_REGISTER_STRING])
        self.domain = c_void_p(_DomainCreate(given[_DOMAIN_CREATE])(name.encode()))
        self._strings: dict[str, int] = {}

    def attributes(self, message: str) -> _Attributes:
        """Of the ranges of one thread: their payload is written before each push."""
        if message not in self._strings:
            self._strings[message] = self._register(self.domain, message.encode())
        return _Attributes(
            version=_VERSION,
            size=ctypes.sizeof(_Attributes),
            payload_type=_INT64,
            message_type=_REGISTERED,
            message=self._strings[message],
        )

    def _export_table(self, table: int) -> int:
        known = {_CALLBACKS: self._callbacks, _VERSION_INFO: self._version}
        return ctypes.addressof(known[table]) if table in known else 0

    def _functions(self, module: int, table: Any, size: Any) -> int:
        if module not in self._modules:
            return 0
        if size:
            size[0] = _MODULE_SIZE
        if table:
            table[0] = ctypes.addressof(self._modules[module].places)
        return 1


@functools.cache
def load_injection(name: str) -> Injection | None:
    """The interface of the recorder that runs this process; None without one that has it."""
    path = os.environ.get(LIBRARY)
    if not path:
        return None
    try:
        initialize = ctypes.CDLL(path).InitializeInjectionNvtx2
        initialize.argtypes, initialize.restype = (_GetExportTable,), c_int
        return Injection(initialize, name)
    except (OSError, AttributeError):  # no such library, no such function, refused
        return None
