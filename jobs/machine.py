"""What this machine has."""

from __future__ import annotations

import shutil
import subprocess

NVIDIA_SMI_TIMEOUT_SECONDS = 10


def gpu_names() -> tuple[str, ...]:
    """The GPUs that the driver's own tool lists; none where there is no such tool. Takes up to seconds."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    command = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip())
