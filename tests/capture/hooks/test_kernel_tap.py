"""Taps on the attention kernel: both ways to call it, masks, scales; nothing stays hooked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry, dispatch_attention_fn
from torch import nn
from torch.nn import functional

from i2am.capture import (
    AttentionInputs,
    KernelCall,
    KernelTap,
    Profile,
    ReferenceKeys,
    ReferenceLayout,
    capture,
)
from i2am.capture.hooks.taps import DenoiserCall, LayerTap
from i2am.capture.recording.representation import directional_maps, log_normaliser, reference_logits
from i2am.schemas import CaptureError

PATCHES, REFERENCE, TEXT = 6, 4, 3
KEYS = TEXT + PATCHES + REFERENCE


class Joint(nn.Module):
    """Joint attention over text, target and reference, which calls the kernel in one of its ways."""

    def __init__(self, how: str, scale: float | None = None) -> None:
        super().__init__()
        self.how, self.scale = how, scale
        self.to_qkv = nn.Linear(8, 24)

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        query, key, value = self.to_qkv(states).unflatten(-1, (3, 2, 4)).unbind(2)
        if self.how == "dispatch":
            mixed: torch.Tensor = dispatch_attention_fn(query, key, value, mask, scale=self.scale)
            return mixed
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        attend = functional.scaled_dot_product_attention
        if self.how == "positional":
            return attend(query, key, value, mask, 0.0, False, scale=self.scale)
        return attend(query=query, key=key, value=value, attn_mask=mask, scale=self.scale)


def read(call: KernelCall) -> Iterator[AttentionInputs]:
    reference = ReferenceKeys(slice(TEXT + PATCHES, KEYS), ReferenceLayout(0, (2, 2)))
    yield call.attention_inputs(slice(TEXT, TEXT + PATCHES), (2, 3), (reference,))


def attach(
    module: Joint, found: list[AttentionInputs], stack: ExitStack, current_call: Any = None
) -> None:
    call = current_call or (lambda: DenoiserCall({}, 2, (0, 1)))
    KernelTap("joint", module, "blocks", read=read).attach(
        lambda _tap, layer_inputs: found.extend(layer_inputs), call, stack
    )


MASKS = {
    "no mask": None,
    "bool, over keys": torch.rand(2, 1, 1, KEYS, generator=torch.Generator().manual_seed(0)) > 0.3,
    "bool, whole": torch.rand(2, 1, KEYS, KEYS, generator=torch.Generator().manual_seed(1)) > 0.3,
    "added": torch.randn(2, 2, KEYS, KEYS, generator=torch.Generator().manual_seed(2)),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("scale", [None, 0.1])
@pytest.mark.parametrize("how", ["dispatch", "positional", "keywords"])
def test_a_kernel_call_is_read_with_its_mask_and_scale(
    how: str, scale: float | None, mask: torch.Tensor | None
) -> None:
    torch.manual_seed(0)
    module, states = Joint(how, scale), torch.randn(2, KEYS, 8)
    found: list[AttentionInputs] = []
    expected = module(states, mask)
    with ExitStack() as stack:
        attach(module, found, stack)
        assert torch.equal(module(states, mask), expected)
    assert len(found) == 1, "the native backend passes through both places that are read"
    inputs, (reference,) = found[0], found[0].references
    query, key, _ = module.to_qkv(states).double().unflatten(-1, (3, 2, 4)).unbind(2)
    scores = torch.einsum("bqhc,bkhc->bhqk", query, key) * (scale or 0.5)
    if mask is not None:
        added = mask if mask.dtype != torch.bool else torch.where(mask, 0.0, -torch.inf)
        scores = scores + added
    attention = scores.softmax(-1)[:, :, TEXT : TEXT + PATCHES, TEXT + PATCHES :]
    own = reference_logits(inputs, reference).double()
    total = log_normaliser(inputs).double()
    assert torch.allclose((own - total[..., None]).exp(), attention, atol=1e-6)
    maps = directional_maps(inputs, reference)
    assert torch.allclose(maps["mass"].double(), attention.sum(-1), atol=1e-6)
    assert torch.allclose(maps["g2r"].double(), attention.mean(2), atol=1e-6)


class JointDenoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.joint = Joint("keywords")

    def forward(self, x: torch.Tensor, t: int, mask: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.joint(x, mask)
        return mixed


def find_joint(denoiser: Any) -> list[LayerTap]:
    return [KernelTap("joint", denoiser.joint, "blocks", read=read)]


JOINT = Profile("joint", ("JointDenoiser",), find_joint)


@pytest.mark.filterwarnings("ignore:Samples .* stay incomplete")
def test_factors_need_a_mask_that_hides_no_reference_at_their_own_batch_index(
    tmp_path: Path,
) -> None:
    mask = torch.ones(2, 1, 1, KEYS, dtype=torch.bool)
    mask[0, ..., -1] = False  # from the unconditional branch alone
    denoiser, states = JointDenoiser().requires_grad_(False), torch.randn(2, KEYS, 8)

    def run(name: str, mask: torch.Tensor) -> None:
        options: Any = {"sample": name, "profile": JOINT, "representation": "factors"}
        with capture(denoiser, tmp_path / "run.zarr", **options):
            denoiser(states, 900, mask)

    run("seen", mask)
    with pytest.raises(CaptureError, match="got masked ones, at layer 'joint'"):
        run("hidden", mask.flip(0))


def test_reduction_in_tiles_is_the_same() -> None:
    torch.manual_seed(0)
    query, key = 30 * torch.randn(1, 2, PATCHES, 4), torch.randn(1, 2, KEYS, 4)
    keys = ReferenceKeys(slice(0, REFERENCE), ReferenceLayout(0, None))
    inputs = AttentionInputs(query, key, 0.5, (2, 3), (keys,))
    whole, total = directional_maps(inputs, keys), log_normaliser(inputs)
    for tile_bytes in (1, 4 * PATCHES * KEYS):  # a patch of all heads; a head
        tiled = directional_maps(inputs, keys, tile_bytes=tile_bytes)
        assert whole.keys() == tiled.keys()
        for name, values in whole.items():
            assert torch.allclose(values, tiled[name], rtol=1e-5, atol=1e-12)
    assert torch.equal(total, log_normaliser(inputs, tile_bytes=1))
    logits = (query.double() @ key.double().transpose(-1, -2) * 0.5)[..., :REFERENCE]
    assert torch.allclose(whole["r2g"].double(), logits.softmax(2).mean(3), rtol=1e-5)


@pytest.mark.parametrize("tokens", [1, REFERENCE])
@pytest.mark.parametrize("ignored", [0, 60, 300], ids=["no token", "hardly", "by far"])
def test_maps_of_keys_that_share_nothing_are_those_of_float64(ignored: float, tokens: int) -> None:
    """A token that all patches ignore has a softmax over them all the same."""
    torch.manual_seed(0)
    # Multiples of 1/64, so that float32 holds every product exactly, whatever order it adds in.
    query = (64 * torch.randn(2, 2, 40, 4)).round() / 64
    key = (64 * torch.randn(2, 2, tokens, 4)).round() / 64
    query[..., 0], key[..., 0], key[:, :, 0, 0] = 1, ignored, 0
    keys = ReferenceKeys(slice(0, tokens), ReferenceLayout(0, None))
    maps = directional_maps(AttentionInputs(query, key, 0.5, (5, 8), (keys,)), keys)
    logits = query.double() @ key.double().mT * 0.5
    assert torch.allclose(maps["r2g"].double(), logits.softmax(2).mean(3), rtol=1e-5)
    if tokens > 1:
        assert torch.allclose(maps["g2r"].double(), logits.softmax(3).mean(2), rtol=1e-5)
    assert maps.keys() == ({"r2g", "g2r"} if tokens > 1 else {"r2g"})


def test_nothing_is_read_outside_a_call_of_the_denoiser() -> None:
    module = Joint("dispatch")
    found: list[AttentionInputs] = []
    with ExitStack() as stack:
        attach(module, found, stack, current_call=lambda: None)
        module(torch.randn(2, KEYS, 8))
    assert not found


def test_other_attention_in_the_same_thread_or_another_is_not_read() -> None:
    module, other = Joint("dispatch"), Joint("positional")
    found: list[AttentionInputs] = []
    states = torch.randn(2, KEYS, 8)

    def meanwhile(*_: Any) -> None:
        thread = threading.Thread(target=other, args=(states,))
        thread.start()
        thread.join()

    with ExitStack() as stack:
        attach(module, found, stack)
        other(states)
        assert not found
        stack.callback(module.to_qkv.register_forward_hook(meanwhile).remove)
        module(states)
    assert len(found) == 1


def test_backends_are_restored_when_the_last_capture_ends() -> None:
    before = dict(_AttentionBackendRegistry._backends)
    with ExitStack() as first, ExitStack() as second:
        attach(Joint("dispatch"), [], first)
        attach(Joint("dispatch"), [], second)
        first.close()
        assert _AttentionBackendRegistry._backends != before
    assert _AttentionBackendRegistry._backends == before


def test_an_exception_leaves_no_mode_behind() -> None:
    module = Joint("keywords")
    found: list[AttentionInputs] = []

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    with ExitStack() as stack:
        attach(module, found, stack)
        stack.callback(module.to_qkv.register_forward_hook(fail).remove)
        with pytest.raises(ZeroDivisionError):
            module(torch.randn(2, KEYS, 8))
        Joint("positional")(torch.randn(2, KEYS, 8))
        assert not found
        assert torch._C._len_torch_function_stack() == 0
