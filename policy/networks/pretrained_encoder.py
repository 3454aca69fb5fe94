"""Scene encoder E from a pretrained vision tower: DINOv2, DINOv3, SigLIP and SigLIP 2 (fixed size), frozen.

    camera image -> resized, normalised -> patches (P, F) of the frozen tower
    memory = [layer norm of the patches | their (u, v)]  -> T tokens a camera by learned attention
    z = norm([tokens of every camera | proprioception] + position)

Called like `SceneEncoder`. There are no keypoints to teach, so only z comes out.

Notable choices
- (u, v) beside every patch: the attention's mean of it is a soft keypoint, finer than a patch, for nothing.
- `features` holds all that is frozen, `read` all that learns: a data set's features can be computed once.
- The whole image is resized to the size the checkpoint's processor crops to. Cropping, as processors do for photographs
  of single objects, would cut the edges of the workspace away.
- Resizing runs on tensors where the model is. Transformers' image processors visit PIL for every image.
Left out: fine-tuning the tower. NaFlex checkpoints of SigLIP 2, whose patches come packed.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...planner.attention_pool import AttentionPool
from ...planner.hub import PretrainedError, load
from .scene_encoder import pixel_grid

RESAMPLE = {2: "bilinear", 3: "bicubic"}  # PIL's numbers


@dataclass(frozen=True)
class PretrainedEncoderConfig:
    """Sizes of `PretrainedEncoder`."""

    model: str  # id on the hub, or a folder
    revision: str | None = None  # commit or tag on the hub; pin it for results that others can repeat
    dtype: str = "float32"  # of the frozen tower
    cameras: tuple[str, ...] = ("front", "wrist")  # order of the cameras, by name
    state_dim: int = 17  # S, length of observation.state
    width: int = 192  # D, width of a scene token
    camera_tokens: int = 13  # T, tokens a camera
    heads: int = 6  # of the pooling

    @property
    def tokens(self) -> int:
        """N."""
        return len(self.cameras) * self.camera_tokens + 1


@dataclass
class PretrainedScene:
    """What of `policy.networks.scene_encoder.Scene` a pretrained tower gives."""

    z: Tensor  # (B, N, D) scene tokens


class PretrainedEncoder(nn.Module):
    """`forward(images, state)` with images {camera: uint8 (B, H, W, 3)} and normalised state (B, S)."""

    mean: Tensor
    std: Tensor
    grid: Tensor

    def __init__(self, cfg: PretrainedEncoderConfig):
        super().__init__()
        self.cfg = cfg
        whole = load("AutoModel", cfg.model, revision=cfg.revision, dtype=cfg.dtype)
        self.tower = getattr(whole, "vision_model", whole).eval().requires_grad_(False)
        how, _ = load("ImageProcessingMixin", cfg.model, "get_image_processor_dict", revision=cfg.revision)
        if missing := {"image_mean", "image_std", "resample"} - how.keys():
            raise PretrainedError(f"{cfg.model}: preprocessor_config.json lacks {sorted(missing)}")
        self.size, self.mode = image_size(cfg.model, how), RESAMPLE[how["resample"]]
        side, D = self.size // patch_size(cfg.model, self.tower.config), cfg.width
        features = self.tower.config.hidden_size + 2
        self.pools = nn.ModuleList(AttentionPool(cfg.camera_tokens, features, D, cfg.heads) for _ in cfg.cameras)
        self.state_token = nn.Sequential(nn.Linear(cfg.state_dim, D), nn.SiLU(), nn.Linear(D, D))
        self.position = nn.Parameter(torch.randn(cfg.tokens, D) * 0.02)
        self.norm = nn.LayerNorm(D)
        self.register_buffer("mean", torch.tensor(how["image_mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(how["image_std"]).view(3, 1, 1), persistent=False)
        self.register_buffer("grid", pixel_grid(side), persistent=False)  # (P, 2)

    def train(self, mode: bool = True) -> "PretrainedEncoder":
        """As torch's, but what is frozen stays in evaluation mode."""
        super().train(mode)
        self.tower.eval()
        return self

    def forward(self, images: dict[str, Tensor], state: Tensor) -> PretrainedScene:
        return self.read(self.features(images), state)

    @torch.no_grad()
    def features(self, images: dict[str, Tensor]) -> Tensor:
        """uint8 (B, H, W, 3) a camera -> patches (B, C, P, F) of the frozen tower."""
        pixels = torch.cat([self.pixels(images[camera]) for camera in self.cfg.cameras])
        out = self.tower(pixels.to(self.tower.dtype)).last_hidden_state[:, -len(self.grid) :]  # patches come last
        return out.unflatten(0, (len(self.cfg.cameras), -1)).transpose(0, 1)

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) -> normalised (B, 3, size, size)."""
        x = images.permute(0, 3, 1, 2).float() / 255
        x = F.interpolate(x, (self.size, self.size), mode=self.mode, antialias=True).clamp(0, 1)
        return (x - self.mean) / self.std

    def read(self, features: Tensor, state: Tensor) -> PretrainedScene:
        """features (B, C, P, F), state (B, S)."""
        patches = F.layer_norm(features.float(), features.shape[-1:])
        memory = torch.cat([patches, self.grid.expand(*features.shape[:2], -1, -1)], dim=-1)
        tokens = [pool(memory[:, c]) for c, pool in enumerate(self.pools)]
        return PretrainedScene(self.norm(torch.cat([*tokens, self.state_token(state)[:, None]], dim=1) + self.position))

    def learned(self) -> dict[str, Tensor]:
        """What learns: with the config, all that a checkpoint needs."""
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}


def image_size(model: str, how: dict[str, Any]) -> int:
    """Side of the square image that the checkpoint's processor ends with."""
    size = how.get("crop_size") if how.get("do_center_crop") else how.get("size")
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge"))
    if not isinstance(size, int):
        raise PretrainedError(f"{model}: preprocessor_config.json names no fixed image size")
    return size


def patch_size(model: str, config: Any) -> int:
    """Side of a patch of the pretrained encoder [pixels]."""
    size, image = getattr(config, "patch_size", None), getattr(config, "image_size", None)
    if not isinstance(size, int) or image is None:
        raise PretrainedError(f"{model} ({config.model_type}) is no vision transformer with images of a fixed size")
    return size
