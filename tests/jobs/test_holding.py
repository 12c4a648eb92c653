"""Two apps on one home, as real processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jobs.holding import HomeHeld, holding
from jobs.home import PROJECT, Home

HOLD = (
    "import sys, time; from pathlib import Path; from jobs.holding import holding; from jobs.home import Home\n"
    "with holding(Home(Path(sys.argv[1]))) as tell:\n"
    "    tell('http://127.0.0.1:7'); print('held', flush=True); time.sleep(600)"
)


def test_a_second_holder_is_told_who_the_first_is_until_that_is_killed(home: Home) -> None:
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(home.path)], cwd=PROJECT, stdout=subprocess.PIPE)
    assert first.stdout is not None and first.stdout.readline() == b"held\n"
    with pytest.raises(HomeHeld) as caught, holding(home):
        pass
    assert str(home.path) in caught.value.title and "--home" in caught.value.hint
    assert f"process {first.pid} at http://127.0.0.1:7, since " in caught.value.detail
    first.kill()
    first.communicate()
    with holding(home) as tell:
        tell("here")
        assert home.app_holder.is_file()
    assert not home.app_holder.exists()


def test_a_holder_that_has_not_said_who_it_is_yet_is_starting(home: Home) -> None:
    with holding(home):
        home.app_holder.write_text("{")
        with pytest.raises(HomeHeld, match="just starting"), holding(home):
            pass
