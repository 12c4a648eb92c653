"""What this machine has."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Sequence

import psutil

from jobs.views import Machine, Run

NVIDIA_SMI_TIMEOUT_SECONDS = 10
CPU = "cpu"


def devices() -> tuple[str, ...]:
    """The places for one run each: every GPU, as `cuda:0`, or the CPU where there is none."""
    return tuple(f"cuda:{number}" for number in range(len(gpu_names()))) or (CPU,)


def only(device: str) -> dict[str, str]:
    """The environment in which a process sees of all GPUs only its `device`; none of them where that is the CPU."""
    return {"CUDA_VISIBLE_DEVICES": device.partition(":")[2]} if gpu_names() else {}


@functools.cache
def gpu_names() -> tuple[str, ...]:
    """The GPUs that the driver's own tool lists; none where there is no such tool. The first call takes seconds."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    command = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip())


def describe_machine(active_runs: Sequence[Run]) -> Machine:
    """What this machine has free at the moment, and which runs it carries out."""
    memory = psutil.virtual_memory()
    return Machine(
        cpu_count=os.cpu_count() or 1,
        memory_total_bytes=memory.total,
        memory_free_bytes=memory.available,
        gpus=gpu_names(),
        active_runs=tuple(active_runs),
    )
