"""What is told of a family in the documentation: its row in the table of models, and its example.

They stand with the profile, so that a new family brings its own.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ModelNotes"]


@dataclass(frozen=True)
class ModelNotes:
    """A profile's row in docs/gallery/models.md, in Markdown.

    Parameters
    ----------
    serves : str
        Pipelines or models.
    tokens : str
        How many reference tokens there are.
    grid : str
        How they lie; "–" where they are no places of the reference.
    shares : str
        What else is among the keys of their softmax; "–" for nothing.
    prepared : str
        What is done to the reference before it is tokens.
    unseen : str
        What of the reference the maps cannot show, because it takes another road.
    example : str
        About five lines of Python that capture it, with `pipe` loaded.
    has_text : bool
        Whether the roads through the text can be kept: ``edges=["reference->text", …]``.

    Examples
    --------
    >>> ModelNotes("MyPipeline", "1 + 256", "16 × 16", "–", "squared", "", "").has_text
    False
    """

    serves: str
    tokens: str
    grid: str
    shares: str
    prepared: str
    unseen: str
    example: str
    has_text: bool = False
