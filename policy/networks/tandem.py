"""All learned parts in one module, sized from one small config. No logic: stages and the agent wire the parts."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...planner.grounding import Grounding, GroundingConfig
from ...planner.image_decoder import ImageDecoder, ImageDecoderConfig
from ...planner.system2 import System2, System2Config
from ...planner.trunk import Trunk
from ...planner.world_model import WorldModel, WorldModelConfig
from ..errors import PolicyError
from .controller import Controller, ControllerConfig
from .goal_readout import GoalReadOut, ReadOutConfig, StateProbe
from .scene_encoder import SceneEncoder, SceneEncoderConfig
from .sizes import Sizes


@dataclass(frozen=True)
class ModelConfig:
    """What the components must agree on. The rest of their sizes are defaults in their own files."""

    sizes: Sizes
    cameras: tuple[str, ...]
    state_dim: int  # S
    action_dim: int  # A
    entities: int  # M, of the privileged columns; 0 where the data has none
    words: int  # size of the vocabulary

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "ModelConfig":
        """From JSON. An error of one line where it is damaged."""
        try:
            trunk = raw["sizes"]["planner"]
            sizes = Sizes(**raw["sizes"] | {"planner": Trunk(**trunk | {"engram": tuple(trunk["engram"])})})
            numbers = [raw[k] for k in ("state_dim", "action_dim", "entities", "words")]
            config = cls(sizes, tuple(raw["cameras"]), *numbers)
            config.refuse_absurd()
            return config
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PolicyError(
                f"config.json of the checkpoint does not fit this version ({error!r}); retrain it"
            ) from error

    def refuse_absurd(self) -> None:
        """ValueError where a size has no sense: files of strangers may ask for any amount of memory."""
        s = self.sizes
        limits = {
            "width": (s.width, 16, 4096), "image_size": (s.image_size, 16, 1024), "chunk": (s.chunk, 4, 512),
            "goal_tokens": (s.goal_tokens, 1, 256), "keypoints": (s.keypoints, 1, 512), "ticks": (s.ticks, 1, 256),
            "tick": (s.tick, 1, 10_000), "instruction_length": (s.instruction_length, 1, 4096),
            "subtask_length": (s.subtask_length, 1, 4096), "draws": (s.draws, 1, 64), "words": (self.words, 4, 200_000),
            "state_dim": (self.state_dim, 1, 4096), "action_dim": (self.action_dim, 1, 4096),
            "entities": (self.entities, 0, 512),
            "cameras": (len(self.cameras), 1, 32),
            "layers": (len(s.planner.pattern.split()), 1, 128),
        }  # fmt: skip
        for name, (value, low, high) in limits.items():
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{name} is {str(value)[:40]}, not a whole number from {low} to {high}")
        if not all(isinstance(camera, str) for camera in self.cameras):
            raise ValueError("cameras are no names")

    @property
    def encoder(self) -> SceneEncoderConfig:
        """Sizes of the scene encoder."""
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
