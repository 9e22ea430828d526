"""How maps are drawn: colours, what is left clear, and between which limits."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakSet

from i2am.schemas.dims import LAYER
from i2am.viewer.data.volume import Volume
from i2am.viewer.scene.contrast import COLORMAPS, Limits, heat_colormap, limits_of, shared_limits
from i2am.viewer.scene.layers import own_layers

if TYPE_CHECKING:
    from i2am.viewer.session.session import Session

__all__ = ["Look", "LookKeeper"]


@dataclass(frozen=True)
class Look:
    """How maps are drawn.

    Parameters
    ----------
    direction : "both", "r2g" or "g2r"
        Which maps are seen.
    polarity : "direct" or "inverted"
        Inverted, the heat is where attention is low.
    threshold : float
        Of each map's own range, 0..1: what is below is drawn clear.
    colormap : str
        Of napari's.
    opacity : float
        0..1.
    contrast : "shared" or "slice"
        One scale for all steps and heads of a layer, so that they compare; or each map its own.
    """

    direction: Literal["both", "r2g", "g2r"] = "both"
    polarity: Literal["direct", "inverted"] = "direct"
    threshold: float = 0.0
    colormap: str = COLORMAPS[0]
    opacity: float = 1.0
    contrast: Literal["shared", "slice"] = "shared"


class LookKeeper:
    """Draws a session's maps as its look says, and leaves alone what a user set in napari.

    Parameters
    ----------
    session : Session
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.look = Look()
        self._dressed: WeakSet[Any] = WeakSet()
        self._drawn: dict[tuple[int, str], tuple[Any, Limits, bool]] = {}

    def change(self, **changes: Any) -> None:
        """Take over what changed, and nothing else."""
        old, self.look = self.look, replace(self.look, **changes)
        self.apply({name for name in vars(old) if getattr(old, name) != getattr(self.look, name)})

    def apply(self, changed: set[str] | None = None) -> None:
        """Bring the layers into the look: some of its settings, or all for layers that are new."""
        for _, role, layer, volume in self._maps():
            volume.threshold = self.look.threshold
            if changed is not None:
                self._dress(role, layer, changed)
            elif layer not in self._dressed:
                self._dress(role, layer, {f.name for f in fields(Look)} - {"threshold"})
            self._dressed.add(layer)
        if changed is not None and "contrast" in changed:
            self._drawn.clear()
        self.draw_limits()

    def _dress(self, role: str, layer: Any, changed: set[str]) -> None:
        look = self.look
        if "direction" in changed:
            layer.visible = look.direction in ("both", role)
        if changed & {"polarity", "colormap"}:
            is_inverted = look.polarity == "inverted"
            layer.colormap = heat_colormap(look.colormap, is_inverted=is_inverted)
        if "opacity" in changed:
            layer.opacity = look.opacity
        if "threshold" in changed:
            layer.refresh(extent=False, thumbnail=False)

    def draw_limits(self) -> None:
        """Set each map's limits where they are others than before; within them, a user's stay."""
        place, means = self._session.place, self._session.means
        for number, role, layer, volume in self._maps():
            own = volume.own_place(place, means)
            if own is None:
                continue
            is_own_scale = self.look.contrast == "slice"
            key: Any = own if is_own_scale else None if LAYER in means else own.layer
            known = self._drawn.get((number, role))
            is_known = known is not None and known[0] == (id(volume), key, means)
            if known is not None and is_known and known[2]:
                continue
            plane = volume.plane(own, means)
            shared = None if is_own_scale else shared_limits(volume, own, means)
            limits = shared or (None if plane is None else limits_of(plane))
            if limits is None:
                continue
            is_final = volume.is_whole(own, means) if is_own_scale else shared is not None
            is_users = known is not None and is_known and tuple(layer.contrast_limits) != known[1]
            if not is_users:
                layer.contrast_limits = limits
            limits = (float(layer.contrast_limits[0]), float(layer.contrast_limits[1]))
            self._drawn[number, role] = ((id(volume), key, means), limits, is_final)

    def _maps(self) -> list[tuple[int, str, Any, Volume]]:
        found = []
        for number, row in enumerate(self._session.rows):
            layers = own_layers(self._session.viewer, number=number)
            found += [(number, d, layers[d], v) for d, v in row.volumes.items() if d in layers]
        return found
