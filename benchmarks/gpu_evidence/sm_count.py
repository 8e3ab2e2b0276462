"""Tells torch's host code another SM count, so that it chooses the split count of another GPU.

torch keeps one cudaDeviceProp per device, which Python's device properties point to and the flash attention
host code reads. The number written there is put back after each use.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_VALUE = 16  # of a pybind11 instance: the wrapped pointer follows the object's head
_PROPERTIES_BYTES = 512  # the SM count lies near byte 390 in CUDA 11, 12 and 13


class SmCount:
    """The SM count of the current device as torch's host code reads it."""

    def __init__(self, field: ctypes.c_int) -> None:
        self._field = field
        self.own = int(field.value)

    @contextmanager
    def told(self, num_sms: int) -> Iterator[None]:
        """Inside the block torch takes the device to have ``num_sms`` SMs."""
        self._field.value = num_sms
        try:
            yield
        finally:
            self._field.value = self.own


def find_sm_count() -> SmCount | None:
    """The field, found by writing to it and reading it back through torch; None where it is not found."""
    import torch

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return find_in(properties, "multi_processor_count")


def find_in(properties: Any, attribute: str) -> SmCount | None:
    """The field behind an integer attribute of a pybind11 object that refers to a C++ struct."""
    own = getattr(properties, attribute)
    struct = ctypes.c_void_p.from_address(id(properties) + _VALUE).value
    if not struct:
        return None
    for offset in range(0, _PROPERTIES_BYTES, ctypes.sizeof(ctypes.c_int)):
        field = ctypes.c_int.from_address(struct + offset)
        if field.value != own:
            continue
        field.value = own + 1
        found = getattr(properties, attribute) == own + 1
        field.value = own
        if found:
            return SmCount(field)
    return None
