"""System 2 from a pretrained vision-language model: any image-text model of transformers whose checkpoint can chat.

    prompt   [older ticks' cameras | newest tick's cameras | instruction | its own previous words]   a chat message
    text     the subtask's words, then the end of the turn                                           the answer
    h        last hidden states of prompt and words (B, M, F)
    g*, progress = heads(pool(h))                       K + 1 learned queries attend over h

The trunk is frozen but for LoRA adapters on its language model. Training is teacher forced, as in `system2.py`. At
inference the words are decoded greedily, and the hidden states that decoding passed through are pooled, so that the
images go through the model once.

Notable choices
- The queries read h from outside. Extra tokens inside the sequence would need the trunk's embedding, its mask and its
  rule for positions, which differ between architectures (Qwen-VL counts along three axes). Hidden states do not.
- Words are in the model's own vocabulary, so instruction, previous words and subtask are strings here.
- The trunk stays in eval mode: dropout that it was pretrained with is no part of this training.
- A checkpoint's sampling habits (temperature, repetition penalty) are dropped: a plan is greedy and repeatable.
Left out: caching the images' features between steps. Checkpoints without a chat template. Gradient checkpointing.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention_pool import AttentionPool
from .chat import IGNORED, Chat, continued
from .hub import PretrainedError, add_lora, load
from .losses import cross_entropy


@dataclass(frozen=True)
class PretrainedPlannerConfig:
    """Sizes of `PretrainedPlanner`."""

    model: str  # id on the hub, or a folder
    revision: str | None = None  # commit or tag on the hub; pin it for results that others can repeat
    dtype: str = "bfloat16"  # of the frozen trunk; adapters and heads are float32
    processor: dict[str, Any] = field(default_factory=dict)  # options, e.g. {"do_image_splitting": False} for Idefics3
    cameras: tuple[str, ...] = ("front", "wrist")  # order of the cameras, by name
    subtask_length: int = 24  # W, most tokens of a subtask, in the model's own vocabulary
    width: int = 192  # D of the latent space
    goal_tokens: int = 4  # K
    heads: int = 6  # of the pooling
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")  # last parts of the layers' names
    hide_words: float = 0.5  # share of samples whose previous words are hidden in training
    hide_tick: float = 0.3  # share of older ticks that are hidden in training


@dataclass
class SpokenPlan:
    """`planner.system2.Plan` with the subtask as text."""

    subtask: list[str]  # B
    goal: Tensor  # (B, K, D) latent subgoal, unit-variance tokens like the read-out's
    progress: Tensor  # (B,) in [0, 1], share of the subtask that is done


class PretrainedPlanner(nn.Module):
    """P of policy/networks/tandem.py. images {camera: uint8 (B, P, H, W, 3)}, P planner ticks, oldest first. Seen (B,
    P) bool."""

    def __init__(self, cfg: PretrainedPlannerConfig):
        super().__init__()
        self.cfg = cfg
        D = cfg.width
        self.trunk = load("AutoModelForImageTextToText", cfg.model, revision=cfg.revision, dtype=cfg.dtype).eval()
        processor = load("AutoProcessor", cfg.model, revision=cfg.revision, **cfg.processor)
        if processor.chat_template is None:
            raise PretrainedError(f"{cfg.model} has no chat template; choose a checkpoint tuned for instructions")
        self.chat = Chat(processor, cfg.cameras, cfg.subtask_length)
        self.trunk.generation_config = self._greedy()
        add_lora(self.trunk, cfg.lora_rank, cfg.lora_alpha, cfg.lora_targets)
        features = self.trunk.config.get_text_config().hidden_size
        self.pool = AttentionPool(cfg.goal_tokens + 1, features, D, cfg.heads)
        self.goal_out = nn.Sequential(nn.Linear(D, 2 * D), nn.SiLU(), nn.Linear(2 * D, D))
        self.progress_out = nn.Linear(D, 1)

    def _greedy(self) -> Any:
        from transformers import GenerationConfig

        length = self.cfg.subtask_length + 1
        return GenerationConfig(max_new_tokens=length, eos_token_id=self.chat.end, pad_token_id=self.chat.pad)

    def train(self, mode: bool = True) -> "PretrainedPlanner":
        """As torch's, but what is frozen stays in evaluation mode."""
        super().train(mode)
        self.trunk.eval()
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.progress_out.weight.device

    def prompt(
        self, instruction: list[str], previous: list[str], images: dict[str, Tensor], seen: Tensor
    ) -> dict[str, Tensor]:
        """What the trunk takes, on its device: input_ids, attention_mask (B, M), and its own form of the images."""
        prompt = self.chat.prompt(instruction, previous, images, seen)
        return {name: x.to(self.device) for name, x in prompt.items()}

    def think(self, prompt: dict[str, Tensor], ids: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Teacher-forced pass. Words ids, real (B, W) -> logits of words and end (B, W + 1, V), goal, progress."""
        inputs = continued(prompt, ids, real)
        out = self.trunk(**inputs, output_hidden_states=True, use_cache=False, logits_to_keep=ids.shape[1] + 1)
        return out.logits.float(), *self._read(out.hidden_states[-1], inputs["attention_mask"].bool())

    def _read(self, hidden: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """hidden (B, M, F), real (B, M) -> goal (B, K, D), progress (B,)."""
        pooled = self.pool(F.layer_norm(hidden.float(), hidden.shape[-1:]), real)
        goal = F.layer_norm(self.goal_out(pooled[:, :-1]), (self.cfg.width,))
        return goal, self.progress_out(pooled[:, -1]).squeeze(-1).sigmoid()

    # -- training ----------------------------------------------------------------------------------------------------
    def loss(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], SpokenPlan]:
        """batch: instruction, previous, subtask (B strings each), images, seen, goal (B, K, D) target, progress (B,).
        Returns losses, the words' accuracy, and the plan."""
        previous, seen = self._hide(batch["previous"], batch["seen"])
        prompt = self.prompt(batch["instruction"], previous, batch["images"], seen)
        ids, real = (x.to(self.device) for x in self.chat.answer(batch["subtask"]))
        logits, goal, progress = self.think(prompt, ids, real)
        target = self.chat.target(ids, real)
        right = (logits.argmax(-1) == target) | (target == IGNORED)
        cosine = 1 - F.cosine_similarity(goal, batch["goal"], dim=-1)
        return {
            "text": cross_entropy(logits.flatten(0, 1), target.flatten(), ignored=IGNORED),
            "goal": F.smooth_l1_loss(goal, batch["goal"]) + 0.1 * cosine.mean(),
            "progress": F.l1_loss(progress, batch["progress"]),
            "subtask_accuracy": right.all(dim=1).float().mean().detach(),
        }, SpokenPlan(batch["subtask"], goal, progress)

    def _hide(self, previous: list[str], seen: Tensor) -> tuple[list[str], Tensor]:
        """A planner that may lean on its own past copies it."""
        hidden = (torch.rand(len(previous)) < self.cfg.hide_words).tolist()
        ticks = torch.rand(seen.shape, device=seen.device) < self.cfg.hide_tick
        return ["" if hide else words for words, hide in zip(previous, hidden, strict=True)], seen & ~ticks

    # -- inference ---------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def sample(
        self, instruction: list[str], previous: list[str], images: dict[str, Tensor], seen: Tensor
    ) -> SpokenPlan:
        """Greedy words, and goal and progress from the hidden states that the decoding left behind."""
        prompt = self.prompt(instruction, previous, images, seen)
        ids, real, hidden = self.decode(prompt)
        there = torch.cat([prompt["attention_mask"].bool(), real], dim=1)
        return SpokenPlan(self.chat.words(ids, real), *self._read(hidden, there))

    @torch.no_grad()
    def decode(self, prompt: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Greedy words: ids, real (B, n <= W), and the hidden states of prompt and words (B, M + n, F)."""
        out = self.trunk.generate(**prompt, output_hidden_states=True, return_dict_in_generate=True)
        ids = out.sequences[:, prompt["input_ids"].shape[1] : -1]  # the last token was never fed back: it has no state
        real = (ids == self.chat.end).cumsum(dim=1) == 0
        return ids, real, torch.cat([step[-1] for step in out.hidden_states], dim=1)

    # -- what was learned --------------------------------------------------------------------------------------------
    def learned(self) -> dict[str, Tensor]:
        """Adapters and heads: with the config, all that a checkpoint needs."""
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}

    def load_learned(self, state: dict[str, Tensor]) -> None:
        """Takes what `learned` gave. Anything missing, extra or of another shape is an error that names it."""
        mine = self.learned()
        if wrong := sorted(mine.keys() ^ state.keys()):
            raise ValueError(f"learned by another planner: {len(wrong)} names differ, the first is {wrong[0]}")
        for name, value in mine.items():
            if value.shape != state[name].shape:
                raise ValueError(f"{name}: shape {tuple(state[name].shape)}, expected {tuple(value.shape)}")
            value.copy_(state[name])
