"""A child that measures nothing: `python -m tests.jobs.stand_in_appraiser RUN_FOLDER STEP`; the environment says how it
behaves.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from core.analysis.appraisal import Appraisal, write_appraisal
from core.errors import RunError
from jobs.children import carry_out, tell

BEHAVIOR = "APPRAISER_BEHAVIOR"


def main() -> int:
    """Behave."""
    return carry_out(_behave, undone="Nothing was measured", doing="The stand-in")


def _behave() -> None:
    behavior = os.environ[BEHAVIOR]
    tell("phase", phase="measuring", detail="", share_done=0.5)
    if behavior == "endless":
        threading.Event().wait()
    elif behavior == "refuses":
        raise RunError("Row 3 is odd", hint="Remove it")
    elif behavior == "dies":
        os.kill(os.getpid(), 9)
    write_appraisal(Path(sys.argv[1]), Appraisal(step=int(sys.argv[2])))
    tell("done")


if __name__ == "__main__":
    sys.exit(main())
