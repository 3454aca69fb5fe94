"""YaRN: rotary frequencies for contexts longer than those trained on (Peng et al., arXiv 2309.00071).

    r = original base^(-2 i / channels) / 2 pi, turns of channel i within the original context
    frequency <- frequency              where r > fast: near neighbours stay as far apart as they were
                 frequency / factor     where r < slow: a whole longer context spans what the original one did
                 a ramp over i between, its ends at whole channels
    logits    <- logits m(mscale_all)^2,  rotated channels times m(mscale) / m(mscale_all);  m(s) = 1 + 0.1 s ln factor

Source: transformers' `_compute_yarn_parameters` and DeepSeek-V3, whose published checkpoints use it. Left out: ramps
with ends between channels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Yarn:
    """Rescaled rotary frequencies for longer contexts (YaRN, arXiv 2309.00071)."""

    factor: float  # new context over the original one
    original: int  # tokens of the context that was trained on
    fast: float = 32.0  # turns within it
    slow: float = 1.0
    mscale: float = 1.0
    mscale_all: float = 0.0

    def slowed(self, frequencies: Tensor, base: float) -> Tensor:
        """frequencies (channels / 2,) of rotary positions with this base."""
        half = len(frequencies)
        first = max(math.floor(self._channel(self.fast, half, base)), 0)
        last = min(math.ceil(self._channel(self.slow, half, base)), 2 * half - 1)
        ramp = (torch.arange(half, device=frequencies.device) - first) / max(last - first, 0.001)
        return torch.lerp(frequencies, frequencies / self.factor, ramp.clamp(0, 1))

    @property
    def amplitude(self) -> float:
        """Of the rotated channels."""
        return self._magnitude(self.mscale) / self._magnitude(self.mscale_all)

    @property
    def logit_scale(self) -> float:
        """Factor of the attention logits."""
        return self._magnitude(self.mscale_all) ** 2

    def _channel(self, turns: float, half: int, base: float) -> float:
        """The channel, not rounded, that turns so often within the original context."""
        return half * math.log(self.original / (turns * 2 * math.pi)) / math.log(base)

    def _magnitude(self, mscale: float) -> float:
        return 1 + 0.1 * mscale * math.log(max(self.factor, 1))
