"""What an engine runs on, and in which numbers."""

from __future__ import annotations

import ctypes
import platform

import torch

from qwarden_engine.memory import MIB
from qwarden_engine.settings import DeviceSettings, SettingsError

_WIDE = 512
"""Hidden size from which a CPU that multiplies in bfloat16 is faster with it: at 1,024 it judges
1.6 times as many rows, at 256, where most of the time is not in products, as many or fewer."""


def device_of(settings: DeviceSettings) -> torch.device:
    """Raises `SettingsError`."""
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"{settings.prefix}DEVICE is cuda and torch sees none; set it to auto")
    return torch.device(settings.device)


def dtype_of(settings: DeviceSettings, device: torch.device, hidden: int) -> str:
    """What `auto` is here, for a network of that hidden size. Raises `SettingsError`."""
    if settings.dtype in ("int8", "float32") and device.type == "cuda":
        raise SettingsError(
            f"{settings.prefix}DTYPE {settings.dtype} is for CPUs; on CUDA set it to auto"
        )
    if settings.dtype != "auto":
        return settings.dtype
    if device.type == "cuda":
        return "bfloat16"
    multiplies = any(
        torch.cpu.get_capabilities().get(flag, False) for flag in ("avx512_bf16", "amx_bf16")
    )
    return "bfloat16" if multiplies and hidden >= _WIDE else "float32"


def computed_in(dtype: str) -> torch.dtype:
    """The numbers of activations, where weights are in `dtype`: an int8 product's sums are scaled
    in float32."""
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


def prepare(device: torch.device, settings: DeviceSettings) -> None:
    """Has this process compute on a CPU as an engine wants it."""
    if device.type == "cpu":
        torch.set_num_threads(settings.threads)
        keep_memory()


def architecture_of(device: torch.device) -> str:
    """What of a device answers depend on, such as `cpu-x86_64` or `cuda-sm_90`."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"cuda-sm_{major}{minor}"
    return f"cpu-{platform.machine()}"


def keep_memory() -> None:
    """Has glibc keep what a forward frees for the next one, in one heap that all threads share.

    Else each result of some megabytes is memory fresh from the system: 62,000 page faults for 150
    short rows of a tiny guard, and a tenth of their time. No fault is left with this. Process-wide.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    # mallopt(3): M_MMAP_THRESHOLD, as far as it goes; M_TRIM_THRESHOLD; M_ARENA_MAX.
    for parameter, value in ((-3, 32 * MIB), (-1, 2**31 - 1), (-8, 1)):
        mallopt(parameter, value)
