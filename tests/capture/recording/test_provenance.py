"""Where a sample comes from: what a model says about its device."""

from __future__ import annotations

import platform

import pytest
from torch import nn

from i2am.capture.recording.provenance import describe_target


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_device_without_a_name_of_its_own_has_the_processors(device: str) -> None:
    layer = nn.Linear(1, 1, device=device)
    found = describe_target(layer, layer, "unet")
    assert (found["device"], found["device_name"]) == (device, platform.machine())
