"""All learned parts in one module, sized from one small config. No logic: stages and the agent wire the parts."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..planner.grounding import Grounding, GroundingConfig
from ..planner.image_decoder import ImageDecoder, ImageDecoderConfig
from ..planner.system2 import System2, System2Config
from ..planner.trunk import Trunk
from ..planner.world_model import WorldModel, WorldModelConfig
from .controller import Controller, ControllerConfig
from .errors import PolicyError
from .read_out import GoalReadOut, ReadOutConfig, StateProbe
from .recipe import Sizes
from .scene_encoder import SceneEncoder, SceneEncoderConfig


@dataclass(frozen=True)
class ModelConfig:
    """What the components must agree on; the rest of their sizes are defaults in their own files."""

    sizes: Sizes
    cameras: tuple[str, ...]
    state_dim: int  # S
    action_dim: int  # A
    entities: int  # M, of the privileged columns; 0 where the data has none
    words: int  # size of the vocabulary

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "ModelConfig":
        try:
            trunk = raw["sizes"]["planner"]
            sizes = Sizes(**raw["sizes"] | {"planner": Trunk(**trunk | {"engram": tuple(trunk["engram"])})})
            return cls(
                sizes, tuple(raw["cameras"]), *(int(raw[k]) for k in ("state_dim", "action_dim", "entities", "words"))
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PolicyError(
                f"config.json of the checkpoint does not fit this version ({error!r}); retrain it"
            ) from error

    @property
    def encoder(self) -> SceneEncoderConfig:
        s = self.sizes
        return SceneEncoderConfig(
            self.cameras, s.image_size, self.state_dim, s.width, max(s.keypoints, self.entities), self.entities
        )


class Tandem(nn.Module):
    """encoder E, read_out G, controller F, planner P, world W, decoder and probe (training only)."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        s, D, heads = cfg.sizes, cfg.sizes.width, max(1, cfg.sizes.width // 32)
        N, K = cfg.encoder.tokens, s.goal_tokens
        self.encoder = SceneEncoder(cfg.encoder)
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.read_out = GoalReadOut(ReadOutConfig(D, K, heads))
        self.grounding = Grounding(
            GroundingConfig(
                width=D,
                words=cfg.words,
                instruction_length=s.instruction_length,
                cameras=len(cfg.cameras),
                keypoints=cfg.encoder.keypoints,
            )
        )
        self.probe = StateProbe(D, K, cfg.entities, cfg.state_dim)
        self.controller = Controller(
            ControllerConfig(
                width=D,
                action_dim=cfg.action_dim,
                chunk=s.chunk,
                goal_tokens=K,
                referents=self.grounding.tokens,
                words=cfg.words,
                instruction_length=s.instruction_length,
                heads=heads,
                draws=s.draws,
            )
        )
        self.planner = System2(
            System2Config(
                width=D,
                words=cfg.words,
                instruction_length=s.instruction_length,
                subtask_length=s.subtask_length,
                goal_tokens=K,
                ticks=s.ticks,
                trunk=s.planner,
                heads=heads,
            )
        )
        self.world = WorldModel(
            WorldModelConfig(
                width=D, action_dim=cfg.action_dim, chunk=s.chunk, scene_tokens=N, goal_tokens=K, heads=heads
            )
        )
        self.decoder = ImageDecoder(ImageDecoderConfig(width=D, goal_tokens=K))
