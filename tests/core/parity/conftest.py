"""The twins that all tests of one case share."""

from __future__ import annotations

import pytest

from tests.core.parity.twins import Twins


@pytest.fixture(scope="module")
def twins(request: pytest.FixtureRequest) -> Twins:
    """The models of the case that the test is for, made once for all tests of that case."""
    return Twins(request.param)
