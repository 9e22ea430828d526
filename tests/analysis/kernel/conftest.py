from __future__ import annotations

from collections.abc import Iterator

import pytest

from i2am.analysis.kernel.arithmetic import use_arithmetic


@pytest.fixture(params=["numpy", "compiled"], scope="module")
def each_way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compute by NumPy, then compiled."""
    with use_arithmetic(request.param):
        yield
