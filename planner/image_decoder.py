"""Goal tokens to a small picture of the front camera: for people to look at. Trained on detached latents."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ImageDecoderConfig:
    """Sizes of `ImageDecoder`."""

    width: int = 192  # D
    goal_tokens: int = 4  # K
    size: int = 48  # height and width of the picture
    channels: int = 64


class ImageDecoder(nn.Module):
    """g (B, K, D) -> (B, 3, size, size) in [0, 1]: a linear map to a 6x6 map, then three doublings."""

    def __init__(self, cfg: ImageDecoderConfig):
        super().__init__()
        self.cfg = cfg
        C = cfg.channels
        self.base = nn.Linear(cfg.width * cfg.goal_tokens, 2 * C * 36)
        self.convs = nn.ModuleList([nn.Conv2d(2 * C, 2 * C, 3, padding=1), nn.Conv2d(2 * C, C, 3, padding=1)])
        self.out = nn.Conv2d(C, 3, 3, padding=1)

    def forward(self, g: Tensor) -> Tensor:
        x = self.base(g.flatten(1)).unflatten(1, (-1, 6, 6))
        for conv in self.convs:
            x = F.relu(conv(F.interpolate(F.relu(x), scale_factor=2.0)))
        x = F.interpolate(x, size=(self.cfg.size, self.cfg.size), mode="bilinear", align_corners=False)
        return self.out(x).float().sigmoid()

    def loss(self, g: Tensor, images: Tensor) -> Tensor:
        """images uint8 (B, S, S, 3), any size. Mean absolute plus mean squared error."""
        target = F.interpolate(images.permute(0, 3, 1, 2).float() / 255, size=(self.cfg.size,) * 2, mode="area")
        picture = self.forward(g)
        return F.l1_loss(picture, target) + F.mse_loss(picture, target)
