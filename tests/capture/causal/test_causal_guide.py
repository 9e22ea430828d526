"""The page about cuts and effects: it names what there is."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from i2am.capture import cut
from i2am.cli import main

GUIDE = (Path(__file__).parents[3] / "docs" / "how-to" / "causal.md").read_text(encoding="utf-8")
# As for `i2am capture`, whose page tells of them.
OF_LOADING = {
    "--revision", "--device", "--model-dtype", "--allow-pickle", "--ip-adapter", "--ip-adapter-scale",
    "--ip-adapter-encoder", "--inference-steps", "--guidance-scale", "--argument", "--profile", "--denoiser",
    "--no-fsync", "--overwrite", "--debug",
}  # fmt: skip


def test_the_page_names_every_option_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["causal", "--help"])
    options = set(re.findall(r"^  (--[\w-]+)", capsys.readouterr().out, re.MULTILINE))
    assert options - set(re.findall(r"(--[\w-]+)", GUIDE)) == OF_LOADING


def test_the_page_names_every_option_of_a_cut() -> None:
    options = set(inspect.signature(cut).parameters) - {"target", "profile", "denoiser"}
    assert options - set(re.findall(r"`(\w+)`", GUIDE)) == set()
