"""Which machine this is: measurements of one must not be believed on another (a cache may be shared)."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path

from .types import digest_of

DEVICES = ("auto", "cpu", "cuda")
"""What PyTorch may be asked to compute on; `auto`: a GPU where there is one."""


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, str]:
    """Its name, processor, instruction sets and NVIDIA GPUs, as far as they can be told."""
    system = platform.uname()
    told = {"node": system.node, "system": " ".join((system.system, system.release, system.machine))} | processor()
    with suppress(OSError):
        gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        told["gpus"] = "; ".join(g.read_text("utf-8").partition("\n")[0] for g in gpus)
    return told


def processor() -> dict[str, str]:
    """Its name and instruction sets, as far as they can be told."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()]
    except OSError:
        return {"processor": platform.processor()}  # where Linux tells more, it would start a program
    return {name.strip(): value.strip() for name, _, value in lines if name.strip() in {"model name", "flags"}}


def fingerprint() -> str:
    """16 hex digits of `machine()`."""
    return digest_of(machine())[:16]
