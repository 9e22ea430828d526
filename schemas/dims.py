"""Names and order of the dimensions, as they stand in a store's ``dimension_names``."""

import re
from typing import Final

# Capture stores.
GUIDANCE: Final = "guidance"
STEP: Final = "step"
HEAD: Final = "head"
GENERATED: Final = "generated"
REFERENCE: Final = "reference"
TEXT: Final = "text"
CHANNEL: Final = "channel"
# Images and maps.
LAYER: Final = "layer"
TIME: Final = "time"
Y: Final = "y"
X: Final = "x"
REFERENCE_Y: Final = "reference_y"
REFERENCE_X: Final = "reference_x"
RGB: Final = "rgb"
# Of shares of attention: text, the generated picture itself, each reference.
SOURCE: Final = "source"
# A coordinate along STEP: the scheduler's own t.
TIMESTEP: Final = "timestep"
# Coordinates along TIME: the steps that a time group spans, both included.
FIRST_STEP: Final = "first_step"
LAST_STEP: Final = "last_step"

# Effects stores: regions of the reference that were cut, edges, and orders in which regions are cut.
CUT: Final = "cut"
CORNER: Final = "corner"
EDGE: Final = "edge"
ORDER: Final = "order"
COUNT: Final = "count"

GENERATED_PLANE: Final = (Y, X)
REFERENCE_PLANE: Final = (REFERENCE_Y, REFERENCE_X)

UNCONDITIONAL: Final = "unconditional"
CONDITIONAL: Final = "conditional"
IMAGE: Final = "image"
PERTURBED: Final = "perturbed"
GUIDANCE_LABELS: Final = (UNCONDITIONAL, CONDITIONAL, IMAGE, PERTURBED)

# Arrays of a layer by which its reference's contribution is multiplied.
WEIGHT: Final = "weight"
REGION: Final = "region"

# Arrays of a layer, with the dimensions that may be left out when they have one value.
LAYER_ARRAYS: Final = {
    "query": ((GUIDANCE,), (STEP, HEAD, GENERATED, CHANNEL)),
    "key": ((GUIDANCE, STEP), (HEAD, REFERENCE, CHANNEL)),
    "logits": ((GUIDANCE,), (STEP, HEAD, GENERATED, REFERENCE)),
    "logsumexp": ((GUIDANCE,), (STEP, HEAD, GENERATED)),
    # Of a layer that was reduced while it was captured; always float32.
    "r2g": ((GUIDANCE,), (STEP, HEAD, GENERATED)),
    "g2r": ((GUIDANCE,), (STEP, HEAD, REFERENCE)),
    "mass": ((GUIDANCE,), (STEP, HEAD, GENERATED)),
    # By what the layer multiplies the reference's contribution: at each step, where that changes on
    # the way (else it is an attribute), and at each patch, where the model is given a mask.
    WEIGHT: ((), (STEP,)),
    REGION: ((), (GENERATED,)),
    # Of the text that shares the layer's softmax, where the roads through it were asked for.
    "text_key": ((GUIDANCE,), (STEP, HEAD, TEXT, CHANNEL)),
    "text_query": ((GUIDANCE,), (STEP, HEAD, TEXT, CHANNEL)),
    "text_logsumexp": ((GUIDANCE,), (STEP, HEAD, TEXT)),
}
# The keys that generated patches read, and the queries with which the text reads the reference.
TEXT_ARRAYS: Final = ("text_key", "text_query", "text_logsumexp")
# What a layer holds: required arrays, then those that it may hold. Maps have their region in them.
REPRESENTATIONS: Final = {
    "factors": (("query", "key"), ("logsumexp", WEIGHT, REGION, *TEXT_ARRAYS)),
    "logits": (("logits",), ("logsumexp", WEIGHT, REGION)),
    "maps": (("r2g",), ("g2r", "mass", WEIGHT)),
}
IMAGE_ARRAYS: Final = {
    "generated": (Y, X, RGB),
    "reference": (REFERENCE_Y, REFERENCE_X, RGB),
    "source": (Y, X, RGB),
    "inpainting_mask": (Y, X),
    "reference_mask": (REFERENCE_Y, REFERENCE_X),
}
_OTHER_REFERENCE: Final = re.compile(r"reference_[1-9][0-9]{0,3}")

# Leading dimensions of a maps array; the direction's plane follows.
LEVELS: Final = {
    "volume": (LAYER, STEP, HEAD),
    "ulam": (),
    "tlam": (TIME,),
    "hlam": (HEAD,),
    "llam": (LAYER,),
}
# What an average holds of each level: its mean under the level's own name, and the variance.
AVERAGED: Final = ("", "_variance")
# Arrays of measured effects, all float32: how much each generated patch changed. Total effects in units of
# the latent and of pixels, direct effects, and those of regions that were painted over in the picture.
_OF_CUT: Final = (CUT, *GENERATED_PLANE)
_OF_LAYER: Final = (LAYER, *GENERATED_PLANE)
_OF_EDGE: Final = (EDGE, *GENERATED_PLANE)
_OF_COUNT: Final = (ORDER, COUNT, *GENERATED_PLANE)
EFFECT_ARRAYS: Final = {
    "region": _OF_CUT,
    "layer": _OF_LAYER,
    "edge": _OF_EDGE,
    "floor": GENERATED_PLANE,
    "ceiling": GENERATED_PLANE,
    "region_pixels": _OF_CUT,
    "layer_pixels": _OF_LAYER,
    "edge_pixels": _OF_EDGE,
    "floor_pixels": GENERATED_PLANE,
    "ceiling_pixels": GENERATED_PLANE,
    "direct_region": _OF_CUT,
    "direct_layer": _OF_LAYER,
    "direct_edge": _OF_EDGE,
    "direct_floor": GENERATED_PLANE,
    "direct_ceiling": GENERATED_PLANE,
    "occlusion": _OF_CUT,
    "occlusion_pixels": _OF_CUT,
    "deletion": _OF_COUNT,
    "insertion": _OF_COUNT,
}
# What belongs to each dimension of theirs; a box is y0, x0, y1, x1 in pixels of the stored reference.
CUT_BOX: Final = "cut_box"
LAYER_NAME: Final = "layer_name"
EDGE_NAME: Final = "edge_name"
ORDER_NAME: Final = "order_name"
ORDER_CUT: Final = "order_cut"
EFFECT_COORDINATES: Final = {
    Y: (Y,),
    X: (X,),
    CUT_BOX: (CUT, CORNER),
    LAYER_NAME: (LAYER,),
    EDGE_NAME: (EDGE,),
    ORDER_NAME: (ORDER,),
    ORDER_CUT: (ORDER, CUT),
    COUNT: (COUNT,),
}
# The units of the coordinates of y, x, reference_y and reference_x, which a maps group may have.
PIXEL_UNITS: Final = "px"
# A coordinate along LAYER of maps whose levels weigh each layer by its measured effect.
LAYER_WEIGHT: Final = "layer_weight"
# Coordinates that each maps group has, and the dimension of each.
MAP_COORDINATES: Final = {LAYER: LAYER, HEAD: HEAD, FIRST_STEP: TIME, LAST_STEP: TIME}


def image_dims(name: str) -> tuple[str, ...] | None:
    """Return the dimensions of a stored image; None where the name is not one of an image.

    Further references (``reference_1``, ``reference_2``, …) have sizes of their own.

    Examples
    --------
    >>> image_dims("inpainting_mask"), image_dims("reference_2")
    (('y', 'x'), ('reference_2_y', 'reference_2_x', 'rgb'))
    """
    if _OTHER_REFERENCE.fullmatch(name):
        return f"{name}_{Y}", f"{name}_{X}", RGB
    return IMAGE_ARRAYS.get(name)
