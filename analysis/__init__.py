"""The analysis stage: directional maps, their levels and scores, from a stored run.

Labelled arrays in, labelled arrays out, lazy until computed; the names here are the public ones.
"""

from i2am.analysis.across import average_maps, default_average_path
from i2am.analysis.compare import compare_runs, summarise_comparison
from i2am.analysis.comparison_files import write_comparison
from i2am.analysis.describe import describe_store, summarise_store
from i2am.analysis.differences import difference_maps
from i2am.analysis.engine import analyze_run
from i2am.analysis.heads import head_scores, write_head_scores
from i2am.analysis.maps import analyze
from i2am.analysis.paired import RunPair, pair_runs
from i2am.analysis.pairing import default_maps_path, find_maps, maps_of
from i2am.analysis.questions import Answer, Questions
from i2am.analysis.scores import imacs, read_scores, score_maps, summarise_scores
from i2am.analysis.spread import spread
from i2am.analysis.sram import sram
from i2am.analysis.store import Maps, Run, open_maps, open_run

__all__ = [
    "Answer",
    "Maps",
    "Questions",
    "Run",
    "RunPair",
    "analyze",
    "analyze_run",
    "average_maps",
    "compare_runs",
    "default_average_path",
    "default_maps_path",
    "describe_store",
    "difference_maps",
    "find_maps",
    "head_scores",
    "imacs",
    "maps_of",
    "open_maps",
    "open_run",
    "pair_runs",
    "read_scores",
    "score_maps",
    "spread",
    "sram",
    "summarise_comparison",
    "summarise_scores",
    "summarise_store",
    "write_comparison",
    "write_head_scores",
]
