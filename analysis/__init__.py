"""The analysis stage: directional maps, their levels and scores, from a stored run.

Labelled arrays in, labelled arrays out, lazy until computed; the names here are the public ones.
"""

from __future__ import annotations

import warnings
from typing import Any, Final

from i2am.schemas import require_extras

require_extras("to analyse a run", "analysis")

from i2am.analysis.effects.faithfulness import score_effects, summarise_effect_scores
from i2am.analysis.effects.region_masses import cell_order, object_patches, region_masses
from i2am.analysis.effects.what_if import what_if
from i2am.analysis.figures.files import write_comparison
from i2am.analysis.inspection.describe import describe_store, summarise_store
from i2am.analysis.maps.analyze import analyze, maps_of
from i2am.analysis.maps.analyze_run import analyze_run
from i2am.analysis.maps.live_sram import LiveSram, SramEstimate
from i2am.analysis.maps.roads import most_read, source_mass, two_hop
from i2am.analysis.maps.sram import sram
from i2am.analysis.scores.heads import head_scores, write_head_scores
from i2am.analysis.scores.imacs import imacs
from i2am.analysis.scores.registry import known_scores, register_score, unregister_score
from i2am.analysis.scores.score import Score, ScoredMap, ScoreOptions, ScoreValue
from i2am.analysis.scores.spread import spread
from i2am.analysis.scores.table import read_scores, score_maps, summarise_scores
from i2am.analysis.statistics.averages import average_maps, default_average_path
from i2am.analysis.statistics.comparison import compare_runs, summarise_comparison
from i2am.analysis.statistics.differences import difference_maps
from i2am.analysis.statistics.run_pair import RunPair, pair_runs
from i2am.analysis.stores.effects import (
    Effects,
    causal_weights,
    effect_share,
    effect_size,
    open_effects,
)
from i2am.analysis.stores.reader import Maps, Run, open_maps, open_run
from i2am.analysis.stores.related import (
    default_effects_path,
    default_maps_path,
    find_effects,
    find_maps,
)

__all__ = [
    "Effects",
    "LiveSram",
    "Maps",
    "Run",
    "RunPair",
    "Score",
    "ScoreOptions",
    "ScoreValue",
    "ScoredMap",
    "SramEstimate",
    "analyze",
    "analyze_run",
    "average_maps",
    "causal_weights",
    "cell_order",
    "compare_runs",
    "default_average_path",
    "default_effects_path",
    "default_maps_path",
    "describe_store",
    "difference_maps",
    "effect_share",
    "effect_size",
    "find_effects",
    "find_maps",
    "head_scores",
    "imacs",
    "known_scores",
    "maps_of",
    "most_read",
    "object_patches",
    "open_effects",
    "open_maps",
    "open_run",
    "pair_runs",
    "read_scores",
    "region_masses",
    "register_score",
    "score_effects",
    "score_maps",
    "source_mass",
    "spread",
    "sram",
    "summarise_comparison",
    "summarise_effect_scores",
    "summarise_scores",
    "summarise_store",
    "two_hop",
    "unregister_score",
    "what_if",
    "write_comparison",
    "write_head_scores",
]

_OLD_NAMES: Final = {"Answer": "SramEstimate", "Questions": "LiveSram"}


def __getattr__(name: str) -> Any:
    if name not in _OLD_NAMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    new = _OLD_NAMES[name]
    warnings.warn(
        f"{__name__}.{name} is now {__name__}.{new}; the old name goes with the next release.",
        DeprecationWarning,
        stacklevel=2,
    )
    return globals()[new]
