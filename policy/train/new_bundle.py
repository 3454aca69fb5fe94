"""A fresh policy for a data set: vocabulary, statistics and sizes from the data, random weights."""

import sys

import numpy as np

from ...data.cache import FrameCache
from ...data.normalize import Normalizer
from ...data.stats import column_stats
from ...planner.tokenizer import WordTokenizer
from ..checkpoint.bundle import ACTION, HAND, STATE, Bundle
from ..errors import PolicyError
from ..networks.tandem import ModelConfig, Tandem
from .recipe import Recipe

# Rotations about x and y stay near zero in most tabletop data, and so do two rotation entries of the state. A floor
# keeps their noise from being blown up to unit size.
FLOOR = {STATE: 0.02, ACTION: 0.1}


def new_bundle(recipe: Recipe, cache: FrameCache) -> Bundle:
    """A policy with fresh weights, of the recipe's sizes and the data's contract."""
    contract = cache.contract
    cameras = tuple(contract.cameras())
    for camera, key in contract.cameras().items():
        if contract.features[key].shape[:2] != (recipe.sizes.image_size,) * 2:
            raise PolicyError(
                f"camera {camera}: the data's images are {contract.features[key].shape[:2]} pixels, recipe "
                f"{recipe.name!r} wants squares of {recipe.sizes.image_size}; record or scale them so"
            )
    learned = ~np.isin(cache.episode_of, recipe.held_out)
    stats = {key: column_stats(cache.columns[key][learned]) for key in (STATE, ACTION)}
    normalizer = Normalizer.fit(stats, contract, (STATE, ACTION), floor=FLOOR)
    tokenizer = WordTokenizer.of([*cache.instructions, *cache.subtasks])
    config = ModelConfig(
        sizes=recipe.sizes,
        cameras=cameras,
        state_dim=contract.features[STATE].shape[0],
        action_dim=contract.features[ACTION].shape[0],
        entities=cache.columns["observation.environment_state"].shape[1] // 4 if _privileged(cache, cameras) else 0,
        words=tokenizer.size,
    )
    bundle = Bundle(config, contract, normalizer, tokenizer, Tandem(config))
    if config.entities and not bundle.names_hand:
        print(
            f"note: {STATE} names no hand ({', '.join(HAND)}), so the encoder learns where things are in the world "
            "instead of how far they are from the hand; name these entries in the contract if the state has them",
            file=sys.stderr,
        )
    return bundle


def _privileged(cache: FrameCache, cameras: tuple[str, ...]) -> bool:
    keys = ["observation.environment_state", *(f"observation.keypoints.{camera}" for camera in cameras)]
    return all(key in cache.columns for key in keys)
