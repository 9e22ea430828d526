"""Reference-only pipelines: self-attention that also attends to the reference's own patches.

The UNet first runs on the noised reference and stores the input of each self-attention in a bank.
Then it runs on the generated image, and every self-attention appends the stored tokens to its own: it
is its own reference network. The first run has no reference tokens, nor have the extra calls of style
fidelity, so they are skipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from i2am.capture.families.garment_network import garment_network
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.preparation import stretched
from i2am.capture.profiles.profile import Profile, class_names, register
from i2am.capture.profiles.recognition import is_known_unet
from i2am.schemas.dims import CONDITIONAL

if TYPE_CHECKING:
    from torch import nn

_PIPELINES = (
    "StableDiffusionReferencePipeline",
    "StableDiffusionXLReferencePipeline",
    "StableDiffusionControlNetReferencePipeline",
)


def _is_on_known_unet(target: Any, denoiser: nn.Module) -> bool:
    # These pipelines are files of diffusers' community, whatever package they were loaded as.
    return not class_names(target).isdisjoint(_PIPELINES) and is_known_unet(target, denoiser)


register(
    Profile(
        "reference-only",
        _PIPELINES,
        garment_network,
        recognise=_is_on_known_unet,
        calls=(CONDITIONAL, CONDITIONAL),  # The reference's run, then the generated image's.
        prepares=stretched,  # To the size of the generated image.
        notes=ModelNotes(
            serves="the community's `StableDiffusionReferencePipeline` and pipelines like it",
            tokens="as many as the layer has patches",
            grid="the layer's own",
            shares="the generated patches",
            prepared="resized to the generated image's size, whatever its shape",
            unseen="what group normalisation takes over from the reference (`reference_adain`)",
            example=(
                'with capture(pipe, "run.zarr", sample="shirt") as recording:\n'
                "    image = pipe(ref_image=garment, prompt=prompt, reference_attn=True).images[0]\n"
                "    recording.add_images(generated=image, reference=garment)"
            ),
        ),
    )
)
