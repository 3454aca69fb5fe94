"""Every frame of a data set through a frozen encoder, once: the data of stage `think`."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...data.cache import FrameCache
from ...data.progress import progress_bar
from ...data.windows import look
from ..checkpoint.bundle import Bundle
from ..compute import autocast, to_device
from .data_parallel import ALONE, Team

BATCH = 128  # frames encoded together


@dataclass
class Latents:
    """Half precision, on the CPU: 70,000 frames of 27 tokens are 0.7 GB."""

    z: Tensor  # (F, N, D) scene tokens
    g: Tensor  # (F, K, D) read-outs

    def scenes(self, index: Tensor) -> Tensor:
        """Scene tokens z of these frames."""
        return self.z[index].float()

    def goals(self, index: Tensor) -> Tensor:
        """Goal tokens of these frames."""
        return self.g[index].float()


@torch.no_grad()
def encode_all(
    bundle: Bundle, cache: FrameCache, dtype: torch.dtype, team: Team = ALONE, frames: np.ndarray | None = None
) -> Latents:
    """Every process of the team encodes its share and has all in the end. frames: the others stay zero."""
    model, count = bundle.model, len(cache)
    device = bundle.device
    z = torch.zeros(count, bundle.config.encoder.tokens, bundle.sizes.width, dtype=torch.float16)
    g = torch.zeros(count, bundle.sizes.goal_tokens, bundle.sizes.width, dtype=torch.float16)
    parts = torch.as_tensor(np.arange(count) if frames is None else frames).split(BATCH)[team.rank :: team.size]
    for rows in progress_bar(iterable=parts, desc="encode", unit="batch", disable=team.rank > 0):
        seen = to_device(look(cache, rows.numpy()), device)
        with autocast(device, dtype):
            scene = model.encoder(seen["images"], bundle.normalized_state(seen["state"]))
            z[rows], g[rows] = scene.z.cpu().to(z.dtype), model.read_out(scene.z).cpu().to(g.dtype)
    team.add([z, g])
    return Latents(z, g)
