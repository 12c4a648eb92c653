"""Opens a checkpoint that is no real one: `python -m tests.jobs.stand_in_opener` with jobs.checkpoint_opener's options.

What stands in its tensors says how it behaves: `whole`, `refuse`, `die`, or `remove FOLDER`, which goes while we work.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

from jobs.children import begin_child, tell
from tests.jobs.stand_in import write_adapter


def main() -> int:
    begin_child()
    _, checkpoint, output = map(Path, sys.argv[1:])
    word, _, rest = (checkpoint / "tensors.safetensors").read_text().partition(" ")
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "refuse":
        tell("failed", title="The checkpoint is damaged", detail="layer 3", hint="Choose another one")
        return 1
    if word == "remove":
        shutil.rmtree(rest)
    assert (checkpoint / "tensors.safetensors").exists()
    write_adapter(output)
    tell("done", step=10)
    return 0


if __name__ == "__main__":
    sys.exit(main())
