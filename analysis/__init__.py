"""The analysis stage: directional maps, their levels and scores, from a stored run.

Labelled arrays in, labelled arrays out, lazy until computed; the names here are the public ones, and
each loads what it needs when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from i2am.schemas import require_extras
from i2am.schemas.public_names import public_names

if TYPE_CHECKING:
    from i2am.analysis.batch.analyze_run import analyze_run as analyze_run
    from i2am.analysis.effects.faithfulness import score_effects as score_effects
    from i2am.analysis.effects.faithfulness import (
        summarise_effect_scores as summarise_effect_scores,
    )
    from i2am.analysis.effects.region_masses import cell_order as cell_order
    from i2am.analysis.effects.region_masses import object_patches as object_patches
    from i2am.analysis.effects.region_masses import region_masses as region_masses
    from i2am.analysis.effects.what_if import what_if as what_if
    from i2am.analysis.evaluation.correspondence import score_points as score_points
    from i2am.analysis.evaluation.correspondence import summarise_points as summarise_points
    from i2am.analysis.evaluation.points import read_points as read_points
    from i2am.analysis.evaluation.quality import picture_distances as picture_distances
    from i2am.analysis.evaluation.quality import picture_quality as picture_quality
    from i2am.analysis.evaluation.quality import rank_correlations as rank_correlations
    from i2am.analysis.evaluation.true_pictures import find_true_pictures as find_true_pictures
    from i2am.analysis.export.animation import export_animation as export_animation
    from i2am.analysis.export.netcdf import export_netcdf as export_netcdf
    from i2am.analysis.export.numpy_arrays import export_numpy as export_numpy
    from i2am.analysis.export.ome_zarr import export_ome_zarr as export_ome_zarr
    from i2am.analysis.export.pictures import export_pictures as export_pictures
    from i2am.analysis.export.table import export_table as export_table
    from i2am.analysis.export.table import to_table as to_table
    from i2am.analysis.figures.files import write_comparison as write_comparison
    from i2am.analysis.figures.plotting import plot_map as plot_map
    from i2am.analysis.inspection.describe import describe_store as describe_store
    from i2am.analysis.inspection.describe import summarise_store as summarise_store
    from i2am.analysis.intervals.clusters import sample_clusters as sample_clusters
    from i2am.analysis.maps.analyze import analyze as analyze
    from i2am.analysis.maps.analyze import maps_of as maps_of
    from i2am.analysis.maps.live_sram import LiveSram as LiveSram
    from i2am.analysis.maps.live_sram import SramEstimate as SramEstimate
    from i2am.analysis.maps.roads import most_read as most_read
    from i2am.analysis.maps.roads import source_mass as source_mass
    from i2am.analysis.maps.roads import two_hop as two_hop
    from i2am.analysis.maps.sram import sram as sram
    from i2am.analysis.scores.heads import head_scores as head_scores
    from i2am.analysis.scores.heads import write_head_scores as write_head_scores
    from i2am.analysis.scores.imacs import imacs as imacs
    from i2am.analysis.scores.registry import known_scores as known_scores
    from i2am.analysis.scores.registry import register_score as register_score
    from i2am.analysis.scores.registry import unregister_score as unregister_score
    from i2am.analysis.scores.score import Score as Score
    from i2am.analysis.scores.score import ScoredMap as ScoredMap
    from i2am.analysis.scores.score import ScoreOptions as ScoreOptions
    from i2am.analysis.scores.score import ScoreValue as ScoreValue
    from i2am.analysis.scores.spread import spread as spread
    from i2am.analysis.scores.table import read_scores as read_scores
    from i2am.analysis.scores.table import score_maps as score_maps
    from i2am.analysis.scores.table import summarise_scores as summarise_scores
    from i2am.analysis.statistics.averages import average_maps as average_maps
    from i2am.analysis.statistics.averages import default_average_path as default_average_path
    from i2am.analysis.statistics.comparison import compare_runs as compare_runs
    from i2am.analysis.statistics.comparison import summarise_comparison as summarise_comparison
    from i2am.analysis.statistics.differences import difference_maps as difference_maps
    from i2am.analysis.statistics.over_time import evolution as evolution
    from i2am.analysis.statistics.run_pair import RunPair as RunPair
    from i2am.analysis.statistics.run_pair import pair_runs as pair_runs
    from i2am.analysis.stores.effects import Effects as Effects
    from i2am.analysis.stores.effects import causal_weights as causal_weights
    from i2am.analysis.stores.effects import effect_share as effect_share
    from i2am.analysis.stores.effects import effect_size as effect_size
    from i2am.analysis.stores.effects import open_effects as open_effects
    from i2am.analysis.stores.reader import Maps as Maps
    from i2am.analysis.stores.reader import Run as Run
    from i2am.analysis.stores.reader import open_maps as open_maps
    from i2am.analysis.stores.reader import open_run as open_run
    from i2am.analysis.stores.related import default_effects_path as default_effects_path
    from i2am.analysis.stores.related import default_maps_path as default_maps_path
    from i2am.analysis.stores.related import find_effects as find_effects
    from i2am.analysis.stores.related import find_maps as find_maps

require_extras("to analyse a run", "analysis")
__getattr__, __dir__, __all__ = public_names(
    __name__, old={"Answer": "SramEstimate", "Questions": "LiveSram"}
)
