"""A made-up model is captured by the profile that the guide writes for it, in ten lines."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2am.capture import Profile, capture, garment_network
from i2am.schemas import CaptureError
from tests.support.mirrornet import MirrorNet
from tests.support.tiny_pipelines.models import opened

GUIDE = Path(__file__).parents[3] / "docs" / "how-to" / "own-models.md"
HEIGHT, WIDTH = 6, 4
PICTURE = np.zeros((48, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def fence() -> str:
    text = GUIDE.read_text(encoding="utf-8")
    found = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (own,) = (code for code in found if "MirrorNet" in code)
    return str(own)


def test_the_guides_profile_has_ten_lines(fence: str) -> None:
    names = ("reference_first", "mixers", "mirrored")
    nodes = [n for n in ast.parse(fence).body if _name_of(n) in names]
    assert len(nodes) == len(names)
    assert sum(1 + (node.end_lineno or 0) - node.lineno for node in nodes) <= 10


def _name_of(node: ast.stmt) -> str:
    if isinstance(node, ast.FunctionDef):
        return node.name
    target = node.targets[0] if isinstance(node, ast.Assign) else None
    return target.id if isinstance(target, ast.Name) else ""


def test_the_model_is_captured_by_it_and_right(fence: str, tmp_path: Path) -> None:
    names: dict[str, Any] = {"Profile": Profile}
    exec(compile(fence, str(GUIDE), "exec"), names)
    torch.manual_seed(0)
    model = MirrorNet().requires_grad_(False)
    picture, garment = torch.randn(2, 8, HEIGHT, WIDTH), torch.randn(2, 8, HEIGHT, WIDTH)
    with capture(
        model, tmp_path / "run.zarr", sample="a", profile=names["mirrored"], guidance="both",
        dtype="float32",
    ) as recording:  # fmt: skip
        for timestep in (900, 600, 300):
            model(picture, torch.tensor([timestep]), garment)
        recording.add_images(generated=PICTURE, reference=PICTURE)
    sample = opened(tmp_path / "run.zarr" / "a")
    layers = dict(sample["layers"].groups())
    assert set(layers) == {"stages.0.mixer", "stages.1.mixer"}
    own = layers["stages.0.mixer"].attrs["i2am"]
    assert own["generated_grid"] == own["reference_grid"] == [HEIGHT, WIDTH]
    branches = sample["guidance"][...].tolist()
    for row, branch in enumerate(("conditional", "unconditional")):  # as the model has them
        expected = attention_to_garment(model, picture[row], garment[row])
        found = attention_of(layers["stages.0.mixer"], branches.index(branch))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def attention_to_garment(model: Any, picture: torch.Tensor, garment: torch.Tensor) -> Any:
    """Return the first stage's attention to the garment's tokens, dims (head, patch, token)."""
    mixer = model.stages[0].mixer
    own, worn = picture.flatten(1).T, garment.flatten(1).T
    query, key = (
        part.unflatten(-1, (2, -1)).transpose(0, 1)
        for part in (mixer.to_q(own), mixer.to_k(torch.cat([worn, own])))
    )
    return (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)[..., : len(worn)].numpy()


def attention_of(layer: Any, branch: int) -> Any:
    """Return the stored attention of the first step, dims (head, patch, token)."""
    stored = {name: array[...] for name, array in layer.arrays()}
    # The garment's keys are the same at every step, so they have no dimension of steps.
    query, key, total = (stored[n][branch] for n in ("query", "key", "logsumexp"))
    key = key if key.ndim == 3 else key[0]
    logits = layer.attrs["i2am"]["scale"] * query[0] @ key.swapaxes(-1, -2)
    return np.exp(logits - total[0][..., None])


def test_a_split_that_gives_no_list_is_told_so(tmp_path: Path) -> None:
    def flat(patches: int, keys: int) -> Any:
        return slice(patches, keys), slice(0, patches)

    def find_taps(denoiser: Any) -> Any:
        options: Any = {"grid_from": lambda layer: layer.removesuffix(".mixer"), "split": flat}
        return garment_network(denoiser, suffix=".mixer", **options)

    model, latents = MirrorNet(), torch.zeros(1, 8, HEIGHT, WIDTH)
    message = r"Expected split= to return \(own tokens, \[tokens of each reference\]\), got slice"
    profile = Profile("flat", (), find_taps)
    with (
        pytest.raises(CaptureError, match=message),
        capture(model, tmp_path / "run.zarr", sample="a", profile=profile),
    ):
        model(latents, torch.tensor([900]), latents)
