"""Public names of the release before: each is the new object, and warns."""

from __future__ import annotations

import pytest
import torch

import i2am.capture
from i2am.capture import KernelCall, ReferenceKeys, ReferenceLayout
from i2am.capture.hooks.taps import DenoiserCall

OLD_NAMES = {
    "FusedCall": "KernelCall",
    "FusedTap": "KernelTap",
    "Heard": "ProjectionOutputs",
    "Softmax": "AttentionInputs",
}


@pytest.mark.parametrize(("old", "new"), OLD_NAMES.items())
def test_an_old_name_is_the_new_object_and_warns(old: str, new: str) -> None:
    message = rf"i2am\.capture\.{old} is now i2am\.capture\.{new}; the old name goes with the next"
    with pytest.warns(DeprecationWarning, match=message) as caught:
        found = getattr(i2am.capture, old)
    assert found is getattr(i2am.capture, new)
    assert caught[0].filename == __file__, "the warning names the line that uses the old name"
    assert old not in i2am.capture.__all__
    assert new in i2am.capture.__all__


def test_other_names_are_still_errors() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Softmaxes'"):
        _ = i2am.capture.Softmaxes


def test_the_old_method_of_a_kernel_call_is_the_new_one_and_warns() -> None:
    states = torch.zeros(1, 2, 3, 4)
    call = KernelCall(states, states, 0.5, None, DenoiserCall({}, 1, (0,)))
    arguments = slice(0, 2), (1, 2), (ReferenceKeys(slice(2, 3), ReferenceLayout(0, None)),)
    with pytest.warns(DeprecationWarning, match="KernelCall.softmax is now"):
        found = call.softmax(*arguments)
    assert found.query.shape == call.attention_inputs(*arguments).query.shape == (1, 2, 2, 4)
