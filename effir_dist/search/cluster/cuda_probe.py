"""`python -m effir_dist.search.cluster.cuda_probe`: whether CUDA starts on the first GPU, by its driver alone.

Exit code 0 where it does, and where there is no driver to ask; else one line says which call failed, and how.
"""

from __future__ import annotations

import ctypes
import sys

DRIVER = "libcuda.so.1"


def failure() -> str:
    """The first call of the driver that fails, with its error's number; empty where none does."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return ""
    device, context = ctypes.c_int(), ctypes.c_void_p()
    calls = {
        "cuInit": (0,),
        "cuDeviceGet": (ctypes.byref(device), 0),
        "cuDevicePrimaryCtxRetain": (ctypes.byref(context), device),
    }
    for name, arguments in calls.items():
        if number := getattr(driver, name)(*arguments):
            return f"{name} fails with error {number}"
    return ""


if __name__ == "__main__":
    sys.exit(failure() or 0)
