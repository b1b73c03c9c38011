"""Which device and which number format a job runs in."""

from __future__ import annotations

import ctypes
import subprocess
from functools import cache
from pathlib import Path

import torch

from prefloop.errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device(name: str) -> torch.device:
    """`auto` is the first CUDA device, else Apple's, else the CPU. Raises InputError for one that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:1 or mps") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {name!r} was asked for, but this machine has no CUDA device; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise InputError(f"device {name!r} was asked for, but this machine has cuda:0 to cuda:{count - 1}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"device {name!r} was asked for, but this machine has no Apple device; use --device cpu")
    return device


def widest(device: torch.device) -> torch.dtype:
    """The number format for sums that must be exact: float64, but float32 on Apple's devices, which have no wider."""
    return torch.float32 if device.type == "mps" else torch.float64


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it natively, else float32. Raises InputError for others."""
    if name == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else device.type == "cpu" and cpu_has_bf16()
        return torch.bfloat16 if fast else torch.float32
    if name not in DTYPES:
        raise InputError(f"unknown dtype {name!r}; use auto, bfloat16 or float32")
    return DTYPES[name]


@cache
def cpu_has_bf16() -> bool:
    """True where the processor multiplies bfloat16 matrices natively (avx512_bf16, AMX, or Arm's bf16)."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        text = info.read_text(encoding="utf-8", errors="replace")
        return any(f" {flag}" in text for flag in ("avx512_bf16", "amx_bf16", "bf16 "))
    try:
        found = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "hw.optional.arm.FEAT_BF16"], capture_output=True, text=True, check=False
        )
    except OSError:
        return False
    return found.stdout.strip() == "1"


def give_back_freed() -> None:
    """Give the system the memory that was freed between pieces that are in use, where the C library would keep it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others give back by themselves, or cannot
    if trim is not None:
        trim(0)
