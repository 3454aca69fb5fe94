"""Plan search by ranking: roll each sampled chunk out in the world model, keep the best (GPC-RANK, arXiv 2502.00622).

    score = progress + success + closeness of G(z') to g* - disagreement of the ensemble
Closeness is the mean cosine similarity. The weights below were not tuned.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .world_model import WorldModel

PROGRESS, SUCCESS, CLOSENESS, DISAGREEMENT = 1.0, 1.0, 1.0, 1.0


@torch.no_grad()
def rank(
    world: WorldModel, z: Tensor, goal: Tensor, chunks: Tensor, read_out: Callable[[Tensor], Tensor]
) -> tuple[int, Tensor]:
    """z (1, N, D), goal (1, K, D), chunks (M, H, A) -> index of the best chunk and all scores (M,)."""
    M = len(chunks)
    goals = goal.expand(M, -1, -1)
    forecast = world(z.expand(M, -1, -1), chunks, goals)
    closeness = F.cosine_similarity(read_out(forecast.z), goals, dim=-1).mean(-1)
    scores = PROGRESS * forecast.progress + SUCCESS * forecast.success + CLOSENESS * closeness
    scores = scores - DISAGREEMENT * forecast.disagreement
    return int(scores.argmax()), scores
