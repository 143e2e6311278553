"""NVML: the energy counters of NVIDIA's GPUs (Volta and later), asked through the driver's own C library.

Source: the NVML API reference, `nvmlDeviceGetTotalEnergyConsumption`: millijoules since the driver was loaded, in 64
bits. Of several GPUs those count that `CUDA_VISIBLE_DEVICES` names; its numbers are taken as NVML's, which are in the
order of the bus (on machines with different GPUs set CUDA_DEVICE_ORDER=PCI_BUS_ID, so that CUDA does the same). A part
of a GPU (MIG) has no counter.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
NAME_SIZE = 96  # bytes of a name or a UUID, NVML_DEVICE_UUID_V2_BUFFER_SIZE


class Gpu:
    """One GPU's counter of millijoules."""

    def __init__(self, library: Any, handle: ctypes.c_void_p, index: int) -> None:
        """Start to count at the GPU's present value.

        Raises:
            OSError: this GPU does not count.
        """
        self._library, self._handle = library, handle
        self.name = f"GPU {index} {_words(library.nvmlDeviceGetName, handle)}".strip()
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
    """The counters of the GPUs that this process may use; none where there is no driver, or one of them has none."""
    found, count = [], ctypes.c_uint()
    try:
        library = ctypes.CDLL(path)
        _check(library.nvmlInit_v2())
        _check(library.nvmlDeviceGetCount_v2(ctypes.byref(count)))
        for index in range(count.value):
            handle = ctypes.c_void_p()
            _check(library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)))
            if _visible(index, _words(library.nvmlDeviceGetUUID, handle)):
                found.append(Gpu(library, handle, index))
    except (OSError, AttributeError):  # no library, an error of NVML, a library without the function
        return []
    return found


def _visible(index: int, uuid: str) -> bool:
    """Whether `CUDA_VISIBLE_DEVICES` lets this process use a GPU: by number, or by the first part of its UUID."""
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return True
    names = [name.strip() for name in asked.split(",")]
    return any(name == str(index) or (name.startswith("GPU-") and uuid.startswith(name)) for name in names)


def _words(function: Any, handle: ctypes.c_void_p) -> str:
    """What an NVML function says of a GPU as text."""
    words = ctypes.create_string_buffer(NAME_SIZE)
    _check(function(handle, words, ctypes.c_uint(NAME_SIZE)))
    return words.value.decode("utf-8", "replace")


def _check(status: int) -> None:
    """Raise OSError if NVML's answer is not success."""
    if status != 0:
        raise OSError(f"NVML error {status}")
