"""Each block of the page runs as it stands, on a tiny pipeline of its kind with random weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from i2am.analysis import open_run
from tests.support.research.garments import GARMENTS
from tests.support.tiny_pipelines.families import flux_kontext, ip_adapter, qwen_edit
from tests.support.tiny_pipelines.family import Family, noise_image
from tests.support.tiny_pipelines.joint import flux2
from tests.support.tiny_pipelines.small_images import small_images

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "my-pipeline.md"

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree")

THEN = "Then"
# Of a call; a block of the page gives the others.
PICTURES = ("image", "ip_adapter_image")


def as_people_call_it(family: Family) -> Any:
    """Return the family's pipeline, which takes a prompt: it has no text encoder, and takes states for it."""
    own = {name: value for name, value in family.call.items() if name not in PICTURES}
    kind = type(family.pipeline)

    class Small(kind):  # type: ignore[misc, valid-type] # untyped
        def __call__(self, *, prompt: str, **options: Any) -> Any:
            assert prompt
            return super().__call__(num_inference_steps=4, **own, **options)

    family.pipeline.__class__ = Small
    return family.pipeline


def face() -> dict[str, Any]:
    return {"pipe": as_people_call_it(ip_adapter("full")), "face": noise_image(32)}


def kontext() -> dict[str, Any]:
    return {"pipe": as_people_call_it(flux_kontext()), "cat": noise_image(16, width=24)}


def two(family: Family) -> dict[str, Any]:
    pictures = {"cat": noise_image(64), "crown": noise_image(64, 1, width=96)}
    return {"pipe": as_people_call_it(family), **pictures}


def try_on() -> dict[str, Any]:
    research = GARMENTS["IDM-VTON"]()
    pictures = research.pictures()

    def paint(pipe: Any, person: Image.Image, garment: Any) -> Any:
        assert pipe is research.target
        assert isinstance(person, Image.Image)
        research.sample(2, guided=True)
        return pictures["generated"]

    return {
        "pipe": research.target,
        "paint": paint,
        "person": noise_image(32),
        "garment": pictures["reference"],
    }


MADE: dict[str, tuple[Callable[[], dict[str, Any]], str, tuple[str, ...]]] = {
    "An IP-Adapter, on Stable Diffusion 1.5 or SDXL": (face, "face", ("reference",)),
    "FLUX Kontext": (kontext, "cat", ("reference",)),
    "Qwen-Image-Edit": (lambda: two(qwen_edit(plus=True)), "two", ("reference", "reference_1")),
    "FLUX.2": (lambda: two(flux2()), "two", ("reference", "reference_1")),
    "Try-on code from a paper": (try_on, "shirt", ("reference",)),
}


def blocks() -> dict[str, str]:
    """Return the block of each part that is run."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    fence = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    found = dict(zip(parts[::2], (fence.findall(part) for part in parts[1::2]), strict=True))
    assert all(len(codes) == 1 for codes in found.values())
    return {heading: code for heading, (code,) in found.items()}


def test_every_block_has_a_pipeline_here() -> None:
    assert list(blocks()) == [*MADE, THEN]


@pytest.mark.parametrize("heading", MADE)
def test_a_block_runs_as_it_stands(
    heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names, sample, images = MADE[heading]
    known = names()
    with small_images():
        exec(compile(blocks()[heading], str(PAGE), "exec"), known)
    stored = open_run("run.zarr")[sample]
    assert {*images, "generated"} <= set(stored["images"].data_vars)
    # The last part asks what this one has stored.
    then = blocks()[THEN].rstrip().splitlines()
    then[-1] = f"picture = {then[-1]}"
    exec(compile("\n".join(then), str(PAGE), "exec"), known)
    assert known["picture"].startswith(b"\x89PNG")


def test_what_is_not_run_says_why() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("<!-- Not run: it downloads a model. -->\n```py\n") == text.count("```py\n")
    for code in re.findall(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        compile(code, str(PAGE), "exec")
