"""Which device and which number format: what is chosen, and what is refused."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from prefloop.errors import InputError
from prefloop.models import PREPARED, device


def test_auto_is_the_best_there_is() -> None:
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert device.pick_device("auto").type == expected


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no CUDA device; use --device cpu"):
        device.pick_device("cuda:1")


def test_an_apple_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match="no Apple device; use --device cpu"):
        device.pick_device("mps")


def test_a_cuda_device_beyond_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device.pick_device("cuda:1").index == 1
    with pytest.raises(InputError, match="'cuda:2' was asked for, but this machine has cuda:0 to cuda:1"):
        device.pick_device("cuda:2")


def test_a_device_that_is_no_device() -> None:
    with pytest.raises(InputError, match="unknown device 'toaster'; use auto, cpu, cuda"):
        device.pick_device("toaster")


@pytest.mark.parametrize(("fast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_bfloat16_where_the_processor_has_it(
    fast: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "cpu_has_bf16", lambda: fast)
    assert device.pick_dtype("auto", torch.device("cpu")) is dtype


def test_a_named_format_is_taken_as_named() -> None:
    assert device.pick_dtype("float32", torch.device("cpu")) is torch.float32
    with pytest.raises(InputError, match="unknown dtype 'float16'; use auto, bfloat16 or float32"):
        device.pick_dtype("float16", torch.device("cpu"))


CONVOLVED = """
import torch, sys
import prefloop.models
for width in [*range(16, 16 + int(sys.argv[1])), 16]:
    torch.nn.functional.conv2d(torch.ones(2, 16, width, 16), torch.ones(16, 16, 3, 3))
"""


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch was built without oneDNN")
@pytest.mark.parametrize(
    ("sizes", "asked", "kept"),
    [(40, {}, True), (250, {}, False), (250, {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024"}, True)],
)
def test_operations_of_few_sizes_stay_prepared_or_of_as_many_as_the_user_says(
    sizes: int, asked: dict[str, str], kept: bool
) -> None:
    own = {name: value for name, value in os.environ.items() if name not in PREPARED}
    environment = {**own, "ONEDNN_VERBOSE": "all", **asked}
    command = [sys.executable, "-c", CONVOLVED, str(sizes)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    made = [line for line in done.stdout.splitlines() if "create:cache" in line and ",convolution," in line]
    assert len(made) == sizes + 1, done.stdout[-2000:]
    assert ("cache_hit" in made[-1]) == kept, made[-1]


FREED = """
import resource
from pathlib import Path
from prefloop.models.device import give_back_freed

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024

pieces = [bytearray(b"x" * 40_000) for _ in range(3_000)]
full = resident()
pieces = pieces[-1:]  # what was made last stays, so that the heap does not simply end sooner
kept = resident()
give_back_freed()
print(full, kept, resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to give memory back")
def test_freed_memory_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    full, kept, given = map(int, done.stdout.split())
    assert kept > full - 20_000
    assert given < full - 100_000
