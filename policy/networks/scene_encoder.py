"""Scene encoder E: camera images and proprioception -> z, the scene tokens that every other part reads.

A small convolutional trunk, shared by the cameras, makes a feature map at a quarter of the image's resolution. Each
camera has K learned keypoints: a softmax over the map gives where (the expected u, v) and what (the features pooled
there). Both become one token. One token for the whole view of each camera and one for proprioception complete z.

Notable choices
- Keypoints rather than patches: 27 tokens instead of 1,152, and positions finer than a cell come for free
  (spatial softmax: Finn et al. 2016, arXiv 1509.06113). On small machines precision per FLOP decides.
- The first M keypoints of a camera can be taught by the simulator (`keypoint_loss`): the projected centres of named
  entities, recorded beside the demonstrations. Training only: at test time images and proprioception are all there is.
- From what the cameras see of a keypoint, and where, and from where the hand is, a small network reads the way from the
  hand to it, in metres, taught likewise. Keypoints a few millimetres sharp were not enough: the controller had to learn
  the cameras' geometry from actions alone, and after 900 steps still missed objects by 30 mm. With one camera, where
  alone is not enough either: 50 tasks put things of 50 heights on the same pixel (14 mm an axis, with what, 5 mm).
  The way's error teaches the features, but moves no keypoint: early on it would.
- No normalisation layers in the trunk: the convolutions run at the machine's GEMM rate, normalisation would not.
Left out: random shifts. The cameras are fixed, so absolute image position carries metric information.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REACH = 0.5  # metres that the sine features of a way span


@dataclass(frozen=True)
class SceneEncoderConfig:
    """Sizes of `SceneEncoder`."""

    cameras: tuple[str, ...] = ("front", "wrist")  # order of the cameras, by name
    image_size: int = 96  # images are (image_size, image_size, 3)
    state_dim: int = 17  # S, length of observation.state
    width: int = 192  # D, width of a scene token
    keypoints: int = 12  # K, keypoints per camera; the first `entities` of them are taught
    entities: int = 8  # M, entities whose projected centres the data records (0: none)
    stem_channels: int = 32  # channels at a quarter of the resolution
    trunk_channels: int = 96  # channels at an eighth
    map_channels: int = 64  # channels of the map that keypoints read
    trunk_blocks: int = 2  # residual blocks at an eighth
    frequencies: int = 5  # octaves of the sine features of (u, v) and of the way to a keypoint
    locate_width: int = 128  # hidden width of the network that reads the way from the hand to a keypoint

    @property
    def tokens(self) -> int:
        """N: keypoints and one view token a camera, and one proprioception token."""
        return len(self.cameras) * (self.keypoints + 1) + 1


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)  # starts as the identity: stands in for normalisation (Fixup, 1901.09321)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


class Trunk(nn.Module):
    """Images (B, 3, S, S) -> map (B, C, S/4, S/4) and coarse features (B, C', S/8, S/8)."""

    def __init__(self, cfg: SceneEncoderConfig):
        super().__init__()
        self.stem = nn.Conv2d(3, cfg.stem_channels, 8, stride=4, padding=2)
        self.fine = ResidualBlock(cfg.stem_channels)
        self.down = nn.Conv2d(cfg.stem_channels, cfg.trunk_channels, 3, stride=2, padding=1)
        self.coarse = nn.Sequential(*(ResidualBlock(cfg.trunk_channels) for _ in range(cfg.trunk_blocks)))
        self.up = nn.Conv2d(cfg.trunk_channels, cfg.map_channels, 1)
        self.lateral = nn.Conv2d(cfg.stem_channels, cfg.map_channels, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        fine = F.relu(self.fine(self.stem(images)))
        coarse = F.relu(self.coarse(self.down(fine)))
        merged = F.interpolate(self.up(coarse), scale_factor=2.0) + self.lateral(fine)
        return F.relu(merged), coarse


@dataclass
class Scene:
    """What one encoding gives: z for the models, the rest for the keypoint loss and for people."""

    z: Tensor  # (B, N, D) scene tokens
    bare: Tensor  # (B, N, D) these before they say where things are, see `SceneEncoder.with_ways`
    logits: Tensor  # (B, C, K, cells) keypoint log-heat, before the softmax
    points: Tensor  # (B, C, K, 2) expected (u, v) in [-1, 1]
    visible: Tensor  # (B, C, K) logit: is there something to see at this keypoint
    way: Tensor  # (B, K, 3) from the hand to what keypoint k follows, world axes [m]


class Locator(nn.Module):
    """What and where the cameras see, and proprioception -> the way from the hand to it (…, 3), world axes [m].

    Always in fp32: the rounding of bf16 is two millimetres.
    """

    def __init__(self, features: int, keypoints: int, width: int):
        super().__init__()
        self.straight = nn.Linear(features, 3)  # the hand's own position enters linearly
        self.first, self.slot = nn.Linear(features, width), nn.Parameter(torch.zeros(keypoints, width))
        self.second, self.out = nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, features: Tensor) -> Tensor:
        """features (B, K, F)."""
        with torch.autocast(features.device.type, enabled=False):
            x = features.float()
            hidden = F.silu(self.second(F.silu(self.first(x) + self.slot)))
            return 0.1 * (self.straight(x) + self.out(hidden))


class SceneEncoder(nn.Module):
    """E of policy/networks/tandem.py. forward(images, state): {camera: uint8 (B, S, S, 3)}, normalised state (B, S)."""

    grid: Tensor

    def __init__(self, cfg: SceneEncoderConfig):
        super().__init__()
        self.cfg = cfg
        self.trunk = Trunk(cfg)
        C, K, D = len(cfg.cameras), cfg.keypoints, cfg.width
        self.heat = nn.Conv2d(cfg.map_channels, C * K, 1)  # every camera's keypoints; each camera reads its own
        self.visible_bias = nn.Parameter(torch.zeros(C, K))
        self.visible = nn.Parameter(torch.zeros(C, K, cfg.map_channels + 1))
        point_features = cfg.map_channels + 3 + 4 * cfg.frequencies
        self.point_token = nn.Sequential(nn.Linear(point_features, D), nn.SiLU(), nn.Linear(D, D))
        seen = len(cfg.cameras) * point_features + cfg.state_dim
        self.locator = Locator(seen, K, cfg.locate_width)
        self.way_token = nn.Linear(3 + 6 * cfg.frequencies, D)
        self.view_token = nn.Linear(cfg.trunk_channels, D)
        self.state_token = nn.Sequential(nn.Linear(cfg.state_dim, D), nn.SiLU(), nn.Linear(D, D))
        self.position = nn.Parameter(torch.randn(cfg.tokens, D) * 0.02)
        self.norm = nn.LayerNorm(D)
        self.register_buffer("grid", pixel_grid(cfg.image_size // 4), persistent=False)  # (cells, 2)

    def forward(self, images: dict[str, Tensor], state: Tensor) -> Scene:
        B, C, K = state.shape[0], len(self.cfg.cameras), self.cfg.keypoints
        fine, coarse = self.trunk(self._stack(images))  # (B * C, ...)
        heat = self.heat(fine).view(B, C, C, K, -1)
        logits = torch.stack([heat[:, c, c] for c in range(C)], dim=1)  # (B, C, K, cells)
        heat_map = logits.softmax(-1)
        points = heat_map @ self.grid  # (B, C, K, 2)
        features = fine.flatten(2).transpose(1, 2).reshape(B, C, -1, self.cfg.map_channels)
        pooled = heat_map @ features
        evidence = torch.cat([pooled, logits.amax(-1, keepdim=True) * 0.1], dim=-1)
        visible = (evidence * self.visible).sum(-1) + self.visible_bias
        where = torch.cat([visible.sigmoid().unsqueeze(-1), self._fourier(points)], dim=-1)  # (B, C, K, ...)
        way = self._locate(torch.cat([heat_map.detach() @ features, where.detach()], dim=-1), state)
        keypoints = self.point_token(torch.cat([pooled, where], dim=-1)).flatten(1, 2)  # (B, C * K, D)
        views = self.view_token(coarse.mean((2, 3))).view(B, C, -1)
        bare = torch.cat([keypoints, views, self.state_token(state).unsqueeze(1)], dim=1)
        return Scene(self.with_ways(bare, way), bare, logits, points, visible, way)

    def with_ways(self, bare: Tensor, way: Tensor) -> Tensor:
        """bare (B, N, D) as in `Scene`, way (B, K, 3) [m] -> scene tokens z (B, N, D)."""
        C, K = len(self.cfg.cameras), self.cfg.keypoints
        there = self.way_token(self._fourier(way / REACH)).unsqueeze(1)
        keypoints = (bare[:, : C * K].unflatten(1, (C, K)) + there).flatten(1, 2)
        z: Tensor = self.norm(torch.cat([keypoints, bare[:, C * K :]], dim=1) + self.position)
        return z

    def _locate(self, seen: Tensor, state: Tensor) -> Tensor:
        """What every camera sees of a keypoint (B, C, K, ...), then proprioception -> (B, K, 3)."""
        views = seen.float().transpose(1, 2).flatten(2)  # (B, K, C * ...)
        return self.locator(torch.cat([views, state.unsqueeze(1).expand(-1, views.shape[1], -1)], dim=-1))

    def _stack(self, images: dict[str, Tensor]) -> Tensor:
        """uint8 (B, S, S, 3) a camera -> float (B * C, 3, S, S) in [-0.5, 0.5], channels last in memory."""
        stacked = torch.stack([images[c] for c in self.cfg.cameras], dim=1).flatten(0, 1)
        return stacked.float().mul_(1 / 255).sub_(0.5).permute(0, 3, 1, 2)

    def _fourier(self, points: Tensor) -> Tensor:
        """(…, n) -> (…, n * (1 + 2 * frequencies)): the numbers, their sines and cosines."""
        octaves = 2.0 ** torch.arange(self.cfg.frequencies, device=points.device)
        angle = (points.unsqueeze(-1) * octaves * (torch.pi / 2)).flatten(-2)
        return torch.cat([points, angle.sin(), angle.cos()], dim=-1)


def pixel_grid(side: int) -> Tensor:
    """Centres of the cells of a (side, side) map, row by row, as (u right, v down) in [-1, 1]: (side * side, 2)."""
    axis = (torch.arange(side) + 0.5) * (2 / side) - 1
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([u, v], dim=-1).reshape(-1, 2)


def keypoint_loss(scene: Scene, target: Tensor) -> dict[str, Tensor]:
    """Teaches the first M keypoints of every camera. target (B, C, M, 3): u, v in [-1, 1] and visible (0 or 1).

    Heat: cross-entropy against the bilinear weights of the four cells around the point, whose expectation is the point
    itself, so that the softmax's mean is unbiased below a cell. Visibility: binary cross-entropy.
    """
    M = target.shape[2]
    visible = target[..., 2]
    heat = -(bilinear(target[..., :2], scene.logits.shape[-1]) * scene.logits[:, :, :M].log_softmax(-1)).sum(-1)
    offset = (scene.points[:, :, :M] - target[..., :2]).abs().sum(-1)
    count = visible.sum().clamp(min=1.0)
    return {
        "keypoint_heat": (heat * visible).sum() / count,
        "keypoint_offset": (offset * visible).sum() / count,
        "keypoint_visible": F.binary_cross_entropy_with_logits(scene.visible[:, :, :M], visible),
    }


def way_loss(scene: Scene, entities: Tensor, hand: Tensor) -> Tensor:
    """Mean error of the ways to the M entities, in decimetres. entities (B, M, 4): x, y, z, present. hand (B, 3)."""
    M = entities.shape[1]
    error = (scene.way[:, :M] - (entities[..., :3] - hand.unsqueeze(1))).abs().sum(-1)
    return 10 * (error * entities[..., 3]).sum() / entities[..., 3].sum().clamp(min=1.0)


def bilinear(points: Tensor, cells: int) -> Tensor:
    """(…, 2) points in [-1, 1] -> (…, cells) weights on a square map that sum to 1 and whose mean is the point."""
    side = int(cells**0.5)
    at = ((points + 1) * (side / 2) - 0.5).clamp(0, side - 1)  # in units of cells
    axis = torch.arange(side, device=points.device)
    weight = (1 - (at.unsqueeze(-1) - axis).abs()).clamp(min=0)  # (…, 2, side)
    return (weight[..., 1, :, None] * weight[..., 0, None, :]).flatten(-2)
