"""Sentences about maps and measured effects, for figures and the report: the same numbers in both."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import xarray as xr

from i2am.analysis.effects.faithfulness import (
    ComparedSample,
    compare_with_effects,
)
from i2am.analysis.figures.captions import layer_titles
from i2am.analysis.stores.effects import NO_EFFECT_SHARE, effect_share
from i2am.schemas.dims import LAYER

__all__ = ["agreement_note", "belief_sentences", "short_layer_names"]

_NAMED: Final = 3


def belief_sentences(sample: xr.DataTree, effects: xr.Dataset) -> list[str]:
    """Return whether a sample's map can be believed, in three sentences with its own numbers.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.
    effects : Dataset
        This sample of `open_effects`, with effects of regions.

    Raises
    ------
    AnalysisError
        As `compare_with_effects`.
    """
    compared = compare_with_effects(sample, effects)
    return [_of_peaks(compared), _of_ranks(compared), _of_layers(sample, effects)]


def agreement_note(compared: ComparedSample) -> str:
    """Return the rank correlations of a sample in one line."""
    found = _scores(compared)
    causal = f"; layers by effect {found['causal']}" if "causal" in found else ""
    return (
        f"Rank correlation with the effects: mean over layers {found['mean']}{causal}; position alone "
        f"{found['position']}"
    )


def short_layer_names(sample: xr.DataTree, names: list[str]) -> list[str]:
    """Return layers' names without the end that all share."""
    return [title.partition("\n")[0] for title in layer_titles(sample, names, "r2g")]


def _scores(compared: ComparedSample) -> dict[str, str]:
    """Return the rank correlation of the means and of the position, as text."""
    known: tuple[str, ...] = ("mean", "causal")
    maps = {name: compared.maps[name] for name in known if name in compared.maps}
    maps["position"] = compared.baselines(np.random.default_rng(0))["position"]
    each = {name: dict(compared.agreement(plane)) for name, plane in maps.items()}
    return {name: _number(own.get("rank_correlation", math.nan)) for name, own in each.items()}


def _of_peaks(compared: ComparedSample) -> str:
    own = dict(compared.agreement(compared.maps["mean"]))
    if not own:
        return "A single region was measured, so there is no order to compare."
    even = dict(compared.agreement(compared.baselines(np.random.default_rng(0))["uniform"]))
    return (
        f"In {own['same_peak']:.0%} of the object's {int(compared.inside.sum())} patches the region of the "
        f"reference that is read most is the one whose cut changes the patch most, and in "
        f"{own['near_peak']:.0%} it is that one or a neighbour; a map that is even everywhere would be "
        f"right in {even['same_peak']:.0%} and {even['near_peak']:.0%}."
    )


def _of_ranks(compared: ComparedSample) -> str:
    found = _scores(compared)
    causal = (
        f", and {found['causal']} with each layer weighed by its effect"
        if "causal" in found
        else ""
    )
    return (
        f"Over all {len(compared.boxes)} regions the rank correlation of attention and effect is "
        f"{found['mean']} for the mean over layers{causal}; the place in the picture alone gives "
        f"{found['position']}."
    )


def _of_layers(sample: xr.DataTree, effects: xr.Dataset) -> str:
    if "layer_effect" not in effects:
        return "Which layers have an effect was not measured."
    shares = effect_share(effects["layer_effect"], effects["ceiling"]).to_numpy()
    names = short_layer_names(sample, [str(name) for name in effects[LAYER].values])
    best = int(shares.argmax())
    strongest = f"{names[best]} alone changes {shares[best]:.0%}"
    idle = [name for name, share in zip(names, shares, strict=True) if share < NO_EFFECT_SHARE]
    if not idle:
        return (
            f"Each of the {len(names)} layers changes at least {NO_EFFECT_SHARE:.0%} of what cutting the "
            f"reference in all of them changes; {strongest}."
        )
    more = f" and {len(idle) - _NAMED} more" if len(idle) > _NAMED else ""
    return (
        f"{len(idle)} of {len(names)} layers change less than {NO_EFFECT_SHARE:.0%} of what cutting the "
        f"reference in all of them changes ({', '.join(idle[:_NAMED])}{more}), so what their maps show "
        f"moves nothing; {strongest}."
    )


def _number(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.2f}"
