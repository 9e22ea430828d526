"""The page of models is what the profiles say of themselves, and its examples are Python."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from i2am.capture.families.lookup import known_profiles
from i2am.capture.profiles.profile import Profile

ROOT = Path(__file__).parents[1]
PROFILES = known_profiles()


@pytest.fixture(scope="module")
def page() -> Any:
    spec = importlib.util.spec_from_file_location("models_page", ROOT / "tools/models_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_written_from_the_profiles(page: Any) -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.written(text) == text, "run tools/models_page.py"


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_every_profile_tells_what_its_page_needs(profile: Profile) -> None:
    notes = profile.notes
    assert notes is not None
    told = (notes.serves, notes.tokens, notes.grid, notes.shares, notes.prepared, notes.unseen)
    assert all(told)
    assert not any("|" in each or each.endswith(".") for each in told)
    lines = notes.example.strip().splitlines()
    assert 3 <= len(lines) <= 8
    assert max(map(len, lines)) <= 100
    tree = ast.parse(notes.example)
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called = {function.id for function in calls if isinstance(function, ast.Name)}
    methods = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert "capture" in called
    assert "add_images" in methods


def test_the_page_names_no_profile_that_there_is_not(page: Any) -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r'profile="([a-z0-9.-]+)"', text))
    assert named <= {profile.name for profile in PROFILES}
