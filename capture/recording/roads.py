"""The roads through the text: whether what a layer reads can be stored as they need it.

They are stored as factors, so what a mask hides on the way must be hidden from all alike.
"""

from __future__ import annotations

from collections.abc import Collection

from i2am.capture.hooks.attention import AttentionInputs, ReferenceKeys
from i2am.capture.profiles.profile import Profile
from i2am.capture.recording.representation import hides_any, visible_text
from i2am.schemas import CaptureError
from i2am.schemas.choices import EdgeName

__all__ = ["check_knows_text", "check_roads"]


def check_knows_text(profile: Profile, edges: Collection[EdgeName]) -> None:
    """Check that a profile knows its text, before anything runs; one without notes may.

    Raises
    ------
    CaptureError
        If edges lead to or from a text that it does not tell apart.
    """
    if not edges or profile.notes is None or profile.notes.has_text:
        return
    msg = (
        f"Expected a profile that knows the text in its softmax, as edges {list(edges)} ask, got "
        f"{profile.name!r}. Leave edges= (--text-roads) out."
    )
    raise CaptureError(msg)


def check_roads(
    layer: str, inputs: AttentionInputs, reference: ReferenceKeys, edges: Collection[EdgeName]
) -> None:
    """Check that a layer's text is known, and that factors hold what is read over each edge.

    Parameters
    ----------
    layer : str
        Its name, for messages.
    inputs : AttentionInputs
        Of one batch index, when the layer is first read.
    reference : ReferenceKeys
    edges : collection of str
        That lead to or from the text.

    Raises
    ------
    CaptureError
        If the text is not known, reads nothing, or a mask hides a part of a road.
    """
    text = visible_text(inputs)
    if text is None:
        msg = (
            f"Expected text in the softmax of layer {layer!r}, as edges {list(edges)} ask, got none that "
            "its profile knows. Leave edges= (--text-roads) out, or choose other layers=."
        )
        raise CaptureError(msg)
    if "reference->text" in edges and text.query is None:
        msg = (
            f"Expected text that reads the reference, got text that only is read, at layer {layer!r}. "
            "Ask for edges=['text->generated'] alone."
        )
        raise CaptureError(msg)
    if "text->generated" in edges and hides_any(inputs.mask, text.tokens):
        raise CaptureError(_hidden(layer, "text that every patch may see"))
    if "reference->text" in edges and hides_any(text.mask, reference.tokens):
        raise CaptureError(_hidden(layer, "a reference that all of the text may see"))


def _hidden(layer: str, wanted: str) -> str:
    return (
        f"Expected {wanted}, got a mask that hides a part of it, at layer {layer!r}: its roads cannot "
        "be stored. Leave edges= (--text-roads) out."
    )
