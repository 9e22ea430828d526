"""The analysis stage: directional maps, their levels and scores, from a stored run.

Labelled arrays in, labelled arrays out, lazy until computed; the names here are the public ones.
"""

from i2am.analysis.describe import describe_store, summarise_store
from i2am.analysis.engine import analyze_run
from i2am.analysis.maps import analyze
from i2am.analysis.pairing import default_maps_path, find_maps, maps_of
from i2am.analysis.scores import imacs, read_scores, score_maps, summarise_scores
from i2am.analysis.sram import sram
from i2am.analysis.store import Maps, Run, open_maps, open_run

__all__ = [
    "Maps",
    "Run",
    "analyze",
    "analyze_run",
    "default_maps_path",
    "describe_store",
    "find_maps",
    "imacs",
    "maps_of",
    "open_maps",
    "open_run",
    "read_scores",
    "score_maps",
    "sram",
    "summarise_scores",
    "summarise_store",
]
