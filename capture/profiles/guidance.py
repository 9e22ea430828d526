"""Which guidance branches lie in a denoiser's batch, as the pipeline that calls it says itself.

The number of rows alone does not tell: two rows are two images, or the two branches of one, or the
conditional and the perturbed branch of one. Pipelines know, in a property or in a variable of the
call that is running. That holds for a captured denoiser, too, while a pipeline calls it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from i2am.capture.profiles.profile import Profile, class_names
from i2am.capture.profiles.running_call import call_in_progress, guided_prediction
from i2am.schemas.dims import CONDITIONAL, IMAGE, PERTURBED, UNCONDITIONAL

__all__ = ["batch_branches", "has_side_calls", "only_branch"]

# What guiders of modular pipelines call a prediction; they have others, with layers or attention left out.
_OF_PREDICTION = {"pred_cond": CONDITIONAL, "pred_uncond": UNCONDITIONAL}
# This one leaves them out of what it calls unconditional.
_WEAKENS_UNCONDITIONAL = "AutoGuidance"
_IS_GUIDED = "do_classifier_free_guidance"
# Their guided batches have a third branch: guided by the picture alone.
_IMAGE_GUIDED = {
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionXLInstructPix2PixPipeline",
}
# Their first call in a step has all branches that paint. The others look at blurred latents (SAG), skip
# the attention of some blocks or leave the sound out (LTX-2), to guide.
_WITH_SIDE_CALLS = {
    "StableDiffusionSAGPipeline",
    "LTX2ImageToVideoPipeline",
    "LTX2ConditionPipeline",
}
# What a call names of whose second call in a step the conditional branch is without some layers.
_SKIPPED_LAYERS = "skip_guidance_layers"


def batch_branches(target: Any, denoiser: nn.Module, profile: Profile) -> tuple[str, ...] | None:
    """Return the guidance branches of the running call's batches, in the batch's order.

    Parameters
    ----------
    target : pipeline or Module
        What is captured.
    denoiser : Module
        Of the target, or the target itself; its call is running in this thread.
    profile : Profile
        Says the order of a guided batch, and whether there is one.

    Returns
    -------
    tuple of str or None
        Of the step at which it is asked: guidance may be switched off on the way. None if no
        pipeline is running, or it does not say.
    """
    running = call_in_progress(target, denoiser)
    if not profile.is_batched:
        # Nobody but a pipeline of the family calls once per branch for certain.
        return None if running is None and isinstance(target, nn.Module) else (CONDITIONAL,)
    if running is None:
        return None
    if profile.branches is not None:
        return profile.branches(running)
    pipeline, variables = running
    # The variable first: where a call has one, some classes' property of this name says nothing.
    is_guided = variables.get(_IS_GUIDED, getattr(pipeline, _IS_GUIDED, None))
    if is_guided is None:
        return None
    guided = profile.guidance
    if is_guided and class_names(pipeline) & _IMAGE_GUIDED:
        guided = (CONDITIONAL, IMAGE, UNCONDITIONAL)
    branches = guided if is_guided else (CONDITIONAL,)
    if getattr(pipeline, "do_perturbed_attention_guidance", False):
        branches = (*branches, PERTURBED)
    return branches


def only_branch() -> str | None:
    """Return the branch that all of the running call's batch belongs to, where a guider says it.

    Returns
    -------
    str or None
        None if no guider calls the denoiser: then see `batch_branches`.
    """
    prediction = guided_prediction()
    if prediction is None:
        return None
    branch = _OF_PREDICTION.get(prediction.name, PERTURBED)
    is_weakened = _WEAKENS_UNCONDITIONAL in class_names(prediction.guider)
    return PERTURBED if is_weakened and branch == UNCONDITIONAL else branch


def has_side_calls(target: Any, denoiser: nn.Module) -> bool:
    """Return whether the pipeline calls its denoiser again in a step, not to paint but to guide.

    Parameters
    ----------
    target, denoiser
        As in `batch_branches`.
    """
    running = call_in_progress(target, denoiser)
    if running is None:
        return False
    skips_layers = running.variables.get(_SKIPPED_LAYERS) is not None
    return skips_layers or not class_names(running.pipeline).isdisjoint(_WITH_SIDE_CALLS)
