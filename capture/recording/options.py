"""The options of a capture: one class, checked when it is made."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from i2am.capture.hooks.taps import LayerTap
from i2am.capture.profiles.profile import Profile
from i2am.schemas import CaptureError, SchemaError
from i2am.schemas.choices import (
    EDGE_NAMES,
    GUIDANCE_OPTIONS,
    REPRESENTATION_OPTIONS,
    STORED_DTYPES,
    EdgeName,
    GuidanceOption,
    RepresentationOption,
    StoredDtype,
    check_choice,
)

__all__ = ["DEFAULT_MEMORY_BYTES", "CaptureOptions", "StepsOption", "check_heads"]

DEFAULT_MEMORY_BYTES = 2 * 2**30

StepsOption = int | slice | range | Sequence[int] | None


@dataclass(frozen=True)
class CaptureOptions:
    """The options of `capture`: what is kept, and how it is stored.

    Parameters
    ----------
    layers : str or sequence of str, optional
        Shell-style patterns of layer names; None captures every layer of the profile.
    steps : int, slice, range or sequence of int, optional
        Which denoising steps are kept, counted from 0 (the noisiest): every n-th, a range, or a
        list; None keeps all.
    heads : collection of int, optional
        Which heads are kept, counted from 0, of layers that have them; None keeps all.
    guidance : {"conditional", "both"}
        Which guidance branches are kept. A call without guidance has the conditional one alone.
    representation : {"auto", "factors", "logits", "maps"}
        "auto" takes what needs fewer bytes, logits or their factors Q and K, layer by layer.
        "maps" reduces each call on the device to its two directional maps: far fewer bytes, and no
        SRAM afterwards.
    dtype : {"float16", "float32"}
        Of queries, keys and logits. A layer with a value beyond float16 is stored as float32 all
        the same.
    edges : sequence of str, optional
        Which roads are kept beside "reference->generated", where text shares the softmax:
        "reference->text" and "text->generated". They need the factors, and the conditional branch
        alone.
    profile : str or Profile, optional
        None finds it by the target's class.
    denoiser : str, optional
        Where the target has its denoiser, as "unet_vton" or "model.unet"; None looks in the usual
        places.
    memory_bytes : int
        Host memory that tensors may hold on their way to the store. When the store is slower than
        the model, the model waits.
    overwrite : bool
        Whether a complete sample of the same name may be replaced, once the new one is complete.
    durable : bool
        Whether a sample is complete only when it would outlive a power cut: its files are written
        out (fsync) before. On a file system that does this itself it can be left out.

    Raises
    ------
    SchemaError
        If an option has another value.

    Examples
    --------
    >>> CaptureOptions(steps=5, guidance="both").representation
    'auto'
    >>> CaptureOptions(guidance="all")
    Traceback (most recent call last):
        ...
    i2am.schemas.errors.SchemaError: Expected a known guidance, got 'all', at guidance. Known: 'conditional', 'both'.
    """

    layers: str | Sequence[str] | None = None
    steps: StepsOption = None
    heads: Collection[int] | None = None
    guidance: GuidanceOption = "conditional"
    representation: RepresentationOption = "auto"
    dtype: StoredDtype = "float16"
    edges: Collection[EdgeName] = ()
    profile: str | Profile | None = None
    denoiser: str | None = None
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    overwrite: bool = False
    durable: bool = True

    def __post_init__(self) -> None:
        """Check every option that needs no model."""
        check_choice("guidance", self.guidance, GUIDANCE_OPTIONS, SchemaError)
        check_choice("representation", self.representation, REPRESENTATION_OPTIONS, SchemaError)
        check_choice("dtype", self.dtype, STORED_DTYPES, SchemaError)
        self._check_edges()
        if not _is_steps_option(self.steps):
            msg = (
                f"Expected steps as a number n (every n-th), a slice, a range or a list of steps "
                f"from 0 on, got {self.steps!r}. Give one of these."
            )
            raise SchemaError(msg)
        if self.heads is not None and not _are_indices(self.heads):
            msg = (
                f"Expected heads as a list of numbers from 0 on, got {self.heads!r}. "
                "Name at least one."
            )
            raise SchemaError(msg)
        if self.memory_bytes < 1:
            msg = (
                f"Expected memory in bytes above 0, got {self.memory_bytes}. "
                f"Leave it out for 2 GiB."
            )
            raise SchemaError(msg)

    def _check_edges(self) -> None:
        if isinstance(self.edges, str):
            msg = f"Expected edges as a list, got {self.edges!r}, at edges. Give [{self.edges!r}]."
            raise SchemaError(msg)
        for edge in self.edges:
            check_choice("edge", edge, EDGE_NAMES, SchemaError)
        if not self.text_edges:
            return
        if self.representation in ("logits", "maps"):
            msg = (
                f"Expected factors, which hold the roads through the text, got representation="
                f"{self.representation!r}, at edges. Leave the representation out."
            )
            raise SchemaError(msg)
        if self.guidance == "both":
            msg = (
                "Expected one guidance branch with edges through the text, whose length differs between "
                "branches, got guidance='both', at edges. Capture with guidance='conditional'."
            )
            raise SchemaError(msg)

    @property
    def text_edges(self) -> tuple[EdgeName, ...]:
        """The edges that lead to or from the text."""
        return tuple(edge for edge in self.edges if "text" in edge)

    def keeps_step(self, step: int) -> bool:
        """Return whether a denoising step is kept.

        Examples
        --------
        >>> options = CaptureOptions(steps=3)
        >>> [step for step in range(8) if options.keeps_step(step)]
        [0, 3, 6]
        >>> options = CaptureOptions(steps=slice(2, 6, 2))
        >>> [step for step in range(8) if options.keeps_step(step)]
        [2, 4]
        """
        option = self.steps
        if option is None:
            return True
        if isinstance(option, int):
            return step % option == 0
        if isinstance(option, slice):
            first, stride = option.start or 0, option.step or 1
            is_before_stop = option.stop is None or step < option.stop
            return step >= first and is_before_stop and (step - first) % stride == 0
        return step in option

    def kept_heads(self, count: int) -> list[int] | None:
        """Return the heads that are kept of a layer with so many; None where all are.

        Examples
        --------
        >>> CaptureOptions(heads=[0, 5]).kept_heads(4)
        [0]
        """
        if self.heads is None:
            return None
        heads = [head for head in range(count) if head in self.heads]
        return heads if len(heads) < count else None

    def describe(self) -> dict[str, Any]:
        """Return what is stored of the options with each sample: what is kept, as JSON can hold it.

        Examples
        --------
        >>> options = CaptureOptions(layers="up*", steps=slice(2, None)).describe()
        >>> options["layers"], options["steps"], options["dtype"]
        (['up*'], '2:', 'float16')
        """
        return {
            "layers": [self.layers] if isinstance(self.layers, str) else _as_list(self.layers),
            "steps": _describe_steps(self.steps),
            "heads": None if self.heads is None else sorted(set(self.heads)),
            "guidance": self.guidance,
            "representation": self.representation,
            "dtype": self.dtype,
            **({"edges": sorted(self.text_edges)} if self.text_edges else {}),
        }


def check_heads(taps: Iterable[LayerTap], heads: Collection[int] | None) -> None:
    """Check that each head that shall be kept is one of some layer.

    Raises
    ------
    CaptureError
        If none has so many. Layers that do not say how many they have may have any.
    """
    counts = [getattr(tap.attention, "heads", None) for tap in taps]
    known = [count for count in counts if isinstance(count, int)]
    if heads is None or not known or len(known) < len(counts):
        return
    if beyond := sorted(head for head in heads if head >= max(known)):
        msg = (
            f"Expected heads from 0 to {max(known) - 1}, which the layers have, got {beyond}. "
            "Give others, or other layers."
        )
        raise CaptureError(msg)


def _as_list(values: Sequence[str] | None) -> list[str] | None:
    return None if values is None else list(values)


def _describe_steps(option: StepsOption) -> int | str | list[int] | None:
    """Return the steps as the command line takes them; numbers stay numbers."""
    if option is None or isinstance(option, int):
        return option
    if isinstance(option, slice):
        parts = [option.start, option.stop] + ([option.step] if option.step else [])
        return ":".join("" if part is None else str(part) for part in parts)
    return list(option)


def _is_steps_option(option: object) -> bool:
    if option is None:
        return True
    if isinstance(option, int):
        return not isinstance(option, bool) and option > 0
    if isinstance(option, slice):
        first, stride = option.start or 0, option.step or 1
        return first >= 0 and stride > 0 and (option.stop is None or option.stop >= 0)
    return isinstance(option, list | tuple | range) and _are_indices(option)


def _are_indices(values: object) -> bool:
    """Return whether it is a collection of at least one number, all of them from 0 on."""
    return (
        isinstance(values, Collection)
        and len(values) > 0
        and all(isinstance(value, int) and value >= 0 for value in values)
    )
