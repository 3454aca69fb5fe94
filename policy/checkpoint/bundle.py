"""A policy as it is stored and run: weights, sizes, contract, normalisers and vocabulary, always together.

The contract is compared before any weight is loaded. Statistics live here and nowhere else. `Bundle` turns an
observation into tensors and a normalised action back into the environment's units, so no caller can forget to.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ...data.contract import Contract
from ...data.normalize import Normalizer
from ...planner.grounding import REFERENTS
from ...planner.tokenizer import WordTokenizer
from ..errors import PolicyError
from ..networks.advantage_token import Judgement, JudgementConfig
from ..networks.noise_actor import Steering, SteeringConfig
from ..networks.object_memory import Memory, MemoryConfig
from ..networks.policy_state import FeatureSizes
from ..networks.sizes import Sizes
from ..networks.tandem import ModelConfig, Tandem
from . import store
from .quantise import packed_shapes, unpack
from .store import PRETRAINED

STATE, ACTION = "observation.state", "action"
MAX_PARAMETERS = 2_000_000_000  # of a model that is loaded
HAND = ("eef_x", "eef_y", "eef_z")  # names of the hand's position in the state


@dataclass
class Bundle:
    """A policy: its model, contract, normaliser, tokeniser, and what reinforcement learning added."""

    config: ModelConfig
    contract: Contract
    normalizer: Normalizer
    tokenizer: WordTokenizer
    model: Tandem
    steering: Steering | None = None  # chooses the controller's noise, where reinforcement learning taught it to
    judgement: Judgement | None = None  # what the controller is told to be, likewise
    memory: Memory | None = None  # where things are that it does not see now, likewise
    has_planner: bool = True  # False: stage think was not trained, the planner's weights are random

    @classmethod
    def load(cls, path: str | Path, expect: Contract | None = None) -> "Bundle":
        """The averaged weights of a checkpoint. `expect`: the environment's contract. A difference is a DataError."""
        folder = store.resolve(path)
        store.verify(folder)
        contract = Contract.from_json(json.dumps(store.read_json(folder, f"{PRETRAINED}/contract.json")))
        if expect is not None:
            agree(contract, expect)
        config = stored_config(folder)
        normalizer = Normalizer.from_json(json.dumps(store.read_json(folder, f"{PRETRAINED}/normalizer.json")))
        tokenizer = _tokenizer(folder)
        _refuse_disagreement(config, contract, normalizer, tokenizer, folder)
        shapes = model_shapes(config)
        stored = store.read_tensors(folder, f"{PRETRAINED}/model.safetensors", packed_shapes(shapes))
        model = Tandem(config)
        load_weights(model, unpack(stored, model.state_dict()), folder)
        model.eval().requires_grad_(False)
        steering = _part(folder, "steering", lambda raw: Steering(SteeringConfig.from_json(raw)))
        judgement = _part(folder, "judgement", lambda raw: Judgement(JudgementConfig(**raw)))
        memory = _part(folder, "memory", lambda raw: Memory(MemoryConfig(**raw)))
        has_planner = "hierarchical" in store.modes(folder)
        return cls(config, contract, normalizer, tokenizer, model, steering, judgement, memory, has_planner)

    def files(self, weights: dict[str, Tensor]) -> dict[str, Any]:
        """What `checkpoint.save` stores for this policy."""
        return (
            {
                f"{PRETRAINED}/config.json": asdict(self.config),
                f"{PRETRAINED}/contract.json": json.loads(self.contract.to_json()),
                f"{PRETRAINED}/normalizer.json": json.loads(self.normalizer.to_json()),
                f"{PRETRAINED}/tokenizer.json": json.loads(self.tokenizer.to_json()),
                f"{PRETRAINED}/model.safetensors": weights,
            }
            | _part_files("steering", self.steering)
            | _part_files("judgement", self.judgement)
            | _part_files("memory", self.memory)
        )

    def to(self, device: torch.device) -> "Bundle":
        """Itself, its networks moved."""
        for part in (self.model, self.steering, self.judgement, self.memory):
            if part is not None:
                part.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.read_out.queries.device

    @property
    def sizes(self) -> Sizes:
        """Widths and lengths of the networks."""
        return self.config.sizes

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras of the contract, in its order."""
        return self.config.cameras

    @property
    def privileged_keys(self) -> tuple[str, ...]:
        return (
            *(f"observation.keypoints.{camera}" for camera in self.cameras),
            "observation.environment_state",
            "referents",
        )

    @property
    def feature_sizes(self) -> FeatureSizes:
        """Of `Situation.features`."""
        return FeatureSizes.of(self.model.controller.cfg, self.config.state_dim, REFERENTS)

    def normalized_state(self, state: Tensor) -> Tensor:
        """Proprioception (..., S) in its units -> normalised."""
        return self.normalizer.normalize(STATE, state)

    def normalized_actions(self, actions: Tensor) -> Tensor:
        """Actions (..., A) in their units -> normalised."""
        return self.normalizer.normalize(ACTION, actions)

    def action(self, normalized: np.ndarray) -> np.ndarray:
        """One action (A,) of the model -> the contract's units, not yet limited."""
        return self.normalizer.denormalize(ACTION, normalized)

    def observation(self, obs: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor]:
        """One observation of the contract -> images {camera: (1, H, W, 3)} and normalised state (1, S).

        DataError where the observation breaks the contract: shape, type, range, NaN, something missing.
        """

        def read(key: str) -> Tensor:
            value = np.array(self.contract.check_value(key, obs, "observation"))
            return torch.from_numpy(value)[None].to(self.device)

        keys = self.contract.cameras()
        images = {camera: read(keys[camera]) for camera in self.cameras}
        return images, self.normalized_state(read(STATE))

    def entity_targets(self, columns: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Privileged columns -> keypoints (B, C, M, 3) and entity state (B, M, 4)."""
        M = self.config.entities
        keypoints = [columns[f"observation.keypoints.{camera}"].unflatten(-1, (M, 3)) for camera in self.cameras]
        return torch.stack(keypoints, dim=1), columns["observation.environment_state"].unflatten(-1, (M, 4))

    @property
    def names_hand(self) -> bool:
        """Does the state say where the hand is?"""
        return set(HAND) <= set(self.contract.features[STATE].names or ())

    def hand(self, state: Tensor) -> Tensor:
        """The hand's position (..., 3) [m], out of the raw state (..., S). The origin where none is named."""
        names = list(self.contract.features[STATE].names or ())
        if not self.names_hand:
            return state.new_zeros(*state.shape[:-1], 3)
        return torch.stack([state[..., names.index(name)] for name in HAND], dim=-1)

    def hand_at(self, state: Tensor) -> Tensor:
        """The same out of the normalised state (..., S) -> (..., 3)."""
        return self.hand(self.normalizer.denormalize(STATE, state))

    def tokenize(self, texts: list[str], length: int) -> Tensor:
        """texts -> word ids (len(texts), length)."""
        return self.tokenizer.encode(texts, length)

    def text(self, ids: Tensor) -> str:
        """Token numbers -> words."""
        return self.tokenizer.decode(ids)

    def picture(self, goal: Tensor) -> np.ndarray:
        """Goal tokens (1, K, D) -> what they look like, uint8 (h, w, 3)."""
        image = self.model.decoder(goal)[0].clamp(0, 1)
        return (image.permute(1, 2, 0) * 255).byte().cpu().numpy()


def _tokenizer(folder: Path) -> WordTokenizer:
    name = f"{PRETRAINED}/tokenizer.json"
    try:
        return WordTokenizer.from_json(json.dumps(store.read_json(folder, name)))
    except ValueError as error:
        if isinstance(error, PolicyError):
            raise
        raise PolicyError(f"checkpoint {folder}: {name} is damaged ({error}); use an older checkpoint") from error


P = TypeVar("P", Steering, Judgement, Memory)


def _part(folder: Path, name: str, make: Callable[[Any], P]) -> P | None:
    """A part that reinforcement learning added to the policy, from its own folder in the checkpoint."""
    inner = f"{PRETRAINED}/{name}"
    if not store.holds(folder, f"{inner}/config.json"):
        return None
    try:
        part = make(store.read_json(folder, f"{inner}/config.json"))
    except (TypeError, ValueError, RuntimeError, KeyError, AttributeError, ZeroDivisionError) as error:
        if isinstance(error, PolicyError):
            raise
        raise PolicyError(f"checkpoint {folder}: {inner}/config.json fits no {name} ({error}); retrain it") from error
    load_weights(part, store.read_tensors(folder, f"{inner}/model.safetensors"), folder)
    part.eval().requires_grad_(False)
    return part


def _part_files(name: str, part: Steering | Judgement | Memory | None) -> dict[str, Any]:
    if part is None:
        return {}
    inner = f"{PRETRAINED}/{name}"
    return {f"{inner}/config.json": asdict(part.cfg), f"{inner}/model.safetensors": dict(part.state_dict())}


def _refuse_disagreement(
    config: ModelConfig, contract: Contract, normalizer: Normalizer, tokenizer: WordTokenizer, where: Path
) -> None:
    """PolicyError where the files of a checkpoint do not belong together."""
    dims = {STATE: config.state_dim, ACTION: config.action_dim}
    for key, size in dims.items():
        shape = contract.features[key].shape if key in contract.features else None
        if (
            shape != (size,)
            or len(normalizer.scale.get(key, ())) != size
            or len(normalizer.center.get(key, ())) != size
        ):
            raise PolicyError(f"checkpoint {where}: {key} has {size} entries in config.json, not in the other files")
    if sorted(config.cameras) != sorted(contract.cameras()):
        raise PolicyError(f"checkpoint {where}: config.json has cameras {config.cameras}, its contract others")
    side = (config.sizes.image_size,) * 2
    if any(contract.features[key].shape[:2] != side for key in contract.cameras().values()):
        raise PolicyError(f"checkpoint {where}: config.json has images of {side}, its contract others")
    if tokenizer.size != config.words:
        raise PolicyError(f"checkpoint {where}: config.json has {config.words} words, its tokenizer {tokenizer.size}")


def model_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight of such a model, without its memory. PolicyError where it would be too large."""
    try:
        with torch.device("meta"):
            shapes = {name: tuple(weight.shape) for name, weight in Tandem(config).state_dict().items()}
    except (RuntimeError, ValueError, ZeroDivisionError, TypeError, AssertionError) as error:
        raise PolicyError(f"config.json fits no model ({str(error).splitlines()[0][:100]}); retrain it") from error
    if (count := sum(map(math.prod, shapes.values()))) > MAX_PARAMETERS:
        raise PolicyError(f"config.json asks for {count:,} numbers, more than {MAX_PARAMETERS:,}; refused")
    return shapes


def agree(policy: Contract, other: Contract, name: str = "the environment") -> None:
    """DataError where what a policy sees and does is not what `name` gives and takes."""
    roles = ("image", "state", "action", "text")
    policy.only(*roles).check(other.only(*roles), name)


def stored_config(path: str | Path) -> ModelConfig:
    """Sizes of the policy in a checkpoint, without its weights."""
    return ModelConfig.from_json(store.read_json(store.resolve(path), f"{PRETRAINED}/config.json"))


def load_weights(model: torch.nn.Module, weights: dict[str, Tensor], where: Path) -> None:
    """Strict: a missing, an unknown or a misshaped weight is an error that names it."""
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    wrong = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    if missing or unknown or wrong:
        first = (missing + unknown + wrong)[0]
        raise PolicyError(
            f"checkpoint {where}: weight {first} does not fit this version's model; retrain or use its version"
        )
    model.load_state_dict(weights)
