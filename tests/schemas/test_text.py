"""What a store or a manifest calls things is shown as text, and moves nothing on a terminal."""

from __future__ import annotations

import argparse
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2am.cli import main
from i2am.cli.arguments import explain, print_error
from i2am.schemas import StoreError
from i2am.schemas.text import safe_text

EVIL = "a\x1b]0;owned\x07\x1b[2J\u202egnp.exe\u2066\u200b\x9b31m\ud800\x00"


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Cc", "Cf", "Cs", "Zl", "Zp"])))
def test_only_what_can_be_seen_is_left(text: str) -> None:
    shown = safe_text(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()
    shown.encode()


def test_what_people_write_is_left_as_it_is() -> None:
    for text in ("shirt-001", "café – 東京", "чашка", "λ = 3 × 10⁴ % €", "قميص", "a\u00a0b"):
        assert safe_text(text) == text


def test_line_breaks_are_kept_where_they_are_meant() -> None:
    assert safe_text("a\nb\tc") == r"a\nb\tc"
    assert safe_text("a\nb\tc", keep="\n") == "a\nb\\tc"


def test_an_error_shows_names_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    error = StoreError(f"Expected a run, got {EVIL}, at x.zarr.\nGive another.")
    assert str(error).replace("\n", "").isprintable()
    assert "\n" in str(error)
    print_error(explain(ValueError(EVIL), argparse.Namespace()))
    print_error(f"one\ntwo {EVIL}")
    err = capsys.readouterr().err
    assert err.count("\n") == 2
    assert err.replace("\n", "").isprintable()


def test_a_call_and_a_warning_show_names_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["info", "no\x1b[2Jstore"])
    assert "\x1b" not in capsys.readouterr().err
    old = warnings.formatwarning
    try:
        main(["info", "."])
        assert "\x1b" not in warnings.formatwarning(f"got {EVIL}", UserWarning, "x.py", 1)
    finally:
        warnings.formatwarning = old
