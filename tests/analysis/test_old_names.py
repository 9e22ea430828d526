"""Public names of the last release work for one more, and say what they are called now."""

from __future__ import annotations

import re

import pytest

from i2am import analysis


@pytest.mark.parametrize(("old", "new"), [("Questions", "LiveSram"), ("Answer", "SramEstimate")])
def test_an_old_name_is_the_new_one_and_warns(old: str, new: str) -> None:
    message = (
        f"i2am.analysis.{old} is now i2am.analysis.{new}; the old name goes with the next release."
    )
    with pytest.warns(DeprecationWarning, match=f"^{re.escape(message)}$") as warned:
        found = getattr(analysis, old)
    assert found is getattr(analysis, new)
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert old not in analysis.__all__


def test_an_old_name_can_be_imported() -> None:
    with pytest.warns(DeprecationWarning, match=r"is now i2am\.analysis\.LiveSram"):
        from i2am.analysis import Questions
    assert Questions is analysis.LiveSram


def test_the_public_names_exist_without_a_warning() -> None:
    assert all(hasattr(analysis, name) for name in analysis.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(
        AttributeError, match=r"module 'i2am\.analysis' has no attribute 'Question'"
    ):
        analysis.Question  # noqa: B018
