"""The words of each option, once: types for the code, tuples for checks and for the command line."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal, get_args

from i2am.schemas.errors import did_you_mean

__all__ = [
    "CONTRASTS",
    "CONVENTIONS",
    "EDGE_NAMES",
    "EFFECT_KINDS",
    "FIGURE_BASES",
    "FIGURE_FORMATS",
    "FIGURE_INCHES",
    "GUIDANCE_OPTIONS",
    "LAYER_WEIGHTS",
    "LEVEL_NAMES",
    "MODEL_DTYPES",
    "NORMALISATIONS",
    "PAIR_METRICS",
    "POLARITIES",
    "REPRESENTATION_OPTIONS",
    "SET_METRICS",
    "STORED_DTYPES",
    "WITHIN",
    "Contrast",
    "Convention",
    "EdgeName",
    "EffectKind",
    "FigureBase",
    "FigureFormat",
    "GuidanceOption",
    "LayerWeights",
    "LevelName",
    "ModelDtype",
    "Normalisation",
    "PairMetricName",
    "Polarity",
    "Representation",
    "RepresentationOption",
    "SetMetricName",
    "StoredDtype",
    "Within",
    "check_choice",
]

# How a layer is stored, and what the caller of capture may ask for.
Representation = Literal["factors", "logits", "maps"]
RepresentationOption = Literal["auto", "factors", "logits", "maps"]
StoredDtype = Literal["float16", "float32"]
GuidanceOption = Literal["conditional", "both"]
# Which tokens read which others, as "what is read -> who reads it"; the first is always kept.
EdgeName = Literal["reference->generated", "reference->text", "text->generated"]
# How the effect of a region is measured.
EffectKind = Literal["total", "direct", "occlusion"]
ModelDtype = Literal["float32", "float16", "bfloat16"]
# How maps are made and shown.
Convention = Literal["i2am", "official"]
Normalisation = Literal["mass", "density"]
# What a mean over layers weighs each of them by; by default nothing does.
LayerWeights = Literal["causal"]
# Which patches the maps are made from: all, or those that the inpainting mask marks.
Within = Literal["image", "mask"]
Polarity = Literal["direct", "inverted"]
Contrast = Literal["shared", "panel"]
# What lies under the heat of a figure, and the files that figures are written as.
FigureBase = Literal["grey", "picture", "none"]
FigureFormat = Literal["png", "pdf", "svg"]
# The least and the most width of a printed figure: less has no room for a panel and its scale.
FIGURE_INCHES: Final = (2.0, 20.0)
LevelName = Literal["ulam", "tlam", "hlam", "llam", "volume", "mass"]
# How near generated images come to true ones: one by one, and as sets.
PairMetricName = Literal["ssim", "psnr", "lpips"]
SetMetricName = Literal["fid", "kid"]

REPRESENTATION_OPTIONS: Final = get_args(RepresentationOption)
STORED_DTYPES: Final = get_args(StoredDtype)
GUIDANCE_OPTIONS: Final = get_args(GuidanceOption)
EDGE_NAMES: Final = get_args(EdgeName)
EFFECT_KINDS: Final = get_args(EffectKind)
MODEL_DTYPES: Final = get_args(ModelDtype)
CONVENTIONS: Final = get_args(Convention)
NORMALISATIONS: Final = get_args(Normalisation)
LAYER_WEIGHTS: Final = get_args(LayerWeights)
WITHIN: Final = get_args(Within)
POLARITIES: Final = get_args(Polarity)
CONTRASTS: Final = get_args(Contrast)
FIGURE_BASES: Final = get_args(FigureBase)
FIGURE_FORMATS: Final = get_args(FigureFormat)
LEVEL_NAMES: Final = get_args(LevelName)
PAIR_METRICS: Final = get_args(PairMetricName)
SET_METRICS: Final = get_args(SetMetricName)


def check_choice(
    option: str, value: object, known: Collection[str], error: type[ValueError]
) -> None:
    """Raise `error` unless an option has one of the known values.

    Examples
    --------
    >>> check_choice("polarity", "inverted", POLARITIES, ValueError)
    >>> check_choice("polarity", "invert", POLARITIES, ValueError)
    Traceback (most recent call last):
    ...
    ValueError: Expected a known polarity, got 'invert', at polarity. Did you mean 'inverted'?
    """
    if value not in known:
        hint = did_you_mean(str(value), known)
        msg = f"Expected a known {option}, got {value!r}, at {option}. {hint}"
        raise error(msg)
