"""Weights in a fifth of the room, for keeping and sending: 8 bits a number, 4 in parts that nothing acts on.

    8 bits, per row          w' = q s,  s = max|w| / 127,  q in -127 .. 127    "name" int8, "name:scale" fp32 (rows,)
    4 bits, per 32 of a row  backbone.int4, two codes a byte                   "name" uint8, "name:scale" (rows, n / 32)
    fewer than two axes, or no floating numbers: as they are

A file of packed weights is one of safetensors as any other. `unpack` gives back what `pack` got, up to rounding, and
leaves what was never packed alone.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ...backbone.int4 import GROUP, dequantise, quantise, unpacked

SCALE = ":scale"
TOP = 127


def pack(weights: Mapping[str, Tensor], coarse: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """coarse: prefixes of the names whose numbers get 4 bits instead of 8."""
    stored: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if weight.dim() < 2 or not weight.is_floating_point():
            stored[name] = weight
            continue
        codes, scale = _four(weight) if name.startswith(coarse) else _eight(weight)
        stored |= {name: codes, name + SCALE: scale}
    return stored


def unpack(stored: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """like: name -> a tensor of the shape and type that the weight had."""
    weights = {name: tensor for name, tensor in stored.items() if not name.endswith(SCALE)}
    for name in [name for name in weights if name + SCALE in stored]:
        if name in like:  # what the model does not have is for its loader to complain about
            codes, scale, own = weights[name], stored[name + SCALE], like[name]
            rows = _from_four(codes, scale) if codes.dtype == torch.uint8 else codes.flatten(1) * scale.unsqueeze(1)
            weights[name] = rows[:, : own[0].numel()].reshape(own.shape).to(own.dtype)
    return weights


def packed_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes that stay as they are in a file, packed or not: of weights that are never packed."""
    return {name: shape for name, shape in shapes.items() if len(shape) < 2}


def _eight(weight: Tensor) -> tuple[Tensor, Tensor]:
    rows = weight.detach().float().flatten(1)
    scale = (rows.abs().amax(1) / TOP).clamp(min=1e-20)
    return (rows / scale.unsqueeze(1)).round().to(torch.int8).view(weight.shape), scale


def _four(weight: Tensor) -> tuple[Tensor, Tensor]:
    rows = weight.detach().float().flatten(1)
    codes, scale = quantise(F.pad(rows, (0, -rows.shape[1] % GROUP)))
    low, high = (codes.flatten(1) + 8).to(torch.uint8).unflatten(1, (-1, 2)).unbind(-1)
    return low | high << 4, scale


def _from_four(codes: Tensor, scale: Tensor) -> Tensor:
    return dequantise((unpacked(codes).float() - 8).unflatten(1, (-1, GROUP)), scale)
