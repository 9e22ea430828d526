"""Effects in real pipelines of several families: batches by a count, videos, layered images, blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from i2am.capture import knock_out
from i2am.capture.causal.patches import strength
from i2am.schemas import CaptureError
from tests.support.tiny_pipelines.catalogue import FAMILIES
from tests.support.tiny_pipelines.small_images import small_images

pytestmark = pytest.mark.filterwarnings("ignore")  # of tiny models in diffusers


@pytest.mark.parametrize(
    ("name", "batch"),
    [
        ("ip-adapter", 3),
        ("flux-kontext", 3),
        ("omnigen", 1),  # It encodes each of several pictures with other noise.
        ("qwen-image-layered", 3),
        ("modular-kontext", 3),
        ("wan-2.2-5b", 3),
    ],
)
def test_what_cannot_matter_changes_nothing_and_layers_do(name: str, batch: int) -> None:
    with small_images():
        torch.manual_seed(0)
        family = FAMILIES[name]()
        state = torch.random.get_rng_state()
        found = knock_out(
            family.pipeline,
            {**family.call, "num_inference_steps": 2},
            per=["layer"],
            forced=True,
            batch=batch,
        )
    assert torch.equal(torch.random.get_rng_state(), state)
    for prefix in ("", "direct_"):
        floor, ceiling = (strength(found[f"{prefix}{one}"]) for one in ("floor", "ceiling"))
        assert floor < 1e-4 * ceiling
        assert (found.share(f"{prefix}layer") > 1e-3).all()
    rows, columns = found["ceiling"].shape
    assert found["layer"].shape == (len(found.layers), rows, columns)
    assert found["ceiling_pixels"].shape == (rows, columns)
    assert rows % family.frames == 0
    assert np.isfinite(found["layer_pixels"]).all()


def test_images_that_a_pipeline_begins_from_other_noise_are_refused() -> None:
    with small_images():
        torch.manual_seed(0)
        family = FAMILIES["omnigen"]()
        call = {**family.call, "num_inference_steps": 2}
        with pytest.raises(CaptureError, match=r"paint one a call: batch=1 \(--batch-size 1\)"):
            knock_out(family.pipeline, call, per=["layer"], batch=3)
