"""NVML: the energy counters of NVIDIA GPUs (Volta and later), read through the driver's C library.

Source: the NVML API reference, `nvmlDeviceGetTotalEnergyConsumption`: millijoules since the driver was loaded, in 64
bits. Only the GPUs in `CUDA_VISIBLE_DEVICES` are counted. Its numbers are taken as NVML's, which are in bus order (on
machines with different GPUs set CUDA_DEVICE_ORDER=PCI_BUS_ID, so that CUDA uses the same order). A part of a GPU (MIG)
has no counter.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
NAME_SIZE = 96  # bytes of a name or a UUID, NVML_DEVICE_UUID_V2_BUFFER_SIZE


class Gpu:
    """Energy counter of one GPU, in millijoules."""

    def __init__(self, library: Any, handle: ctypes.c_void_p, index: int) -> None:
        """Start counting at the present value.

        Raises:
            OSError: this GPU has no counter.
        """
        self._library, self._handle = library, handle
        self.name = f"GPU {index} {_text(library.nvmlDeviceGetName, handle)}".strip()
        self._start = self._millijoules()

    def joules(self) -> float:
        """Joules used since the start.

        Raises:
            OSError: the counter can no longer be read.
        """
        return (self._millijoules() - self._start) / 1000

    def _millijoules(self) -> int:
        energy = ctypes.c_ulonglong()
        _check(self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(energy)))
        return energy.value


def gpus(path: str = LIBRARY) -> list[Gpu]:
    """Counters of the GPUs that this process may use; empty without a driver, or if one of the GPUs has no counter."""
    found, count = [], ctypes.c_uint()
    try:
        library = ctypes.CDLL(path)
        _check(library.nvmlInit_v2())
        _check(library.nvmlDeviceGetCount_v2(ctypes.byref(count)))
        for index in range(count.value):
            handle = ctypes.c_void_p()
            _check(library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)))
            if _visible(index, _text(library.nvmlDeviceGetUUID, handle)):
                found.append(Gpu(library, handle, index))
    except (OSError, AttributeError):  # no library, an NVML error, or a library without the function
        return []
    return found


def _visible(index: int, uuid: str) -> bool:
    """Whether `CUDA_VISIBLE_DEVICES` lets this process use a GPU: by number, or by the first part of its UUID."""
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return True
    names = [name.strip() for name in asked.split(",")]
    return any(name == str(index) or (name.startswith("GPU-") and uuid.startswith(name)) for name in names)


def _text(function: Any, handle: ctypes.c_void_p) -> str:
    """The text that an NVML function returns for a GPU."""
    text = ctypes.create_string_buffer(NAME_SIZE)
    _check(function(handle, text, ctypes.c_uint(NAME_SIZE)))
    return text.value.decode("utf-8", "replace")


def _check(status: int) -> None:
    """Raise OSError if the status is an error."""
    if status != 0:
        raise OSError(f"NVML error {status}")
