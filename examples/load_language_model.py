"""A published language model as ours, with the same logits: `python examples/load_language_model.py FOLDER`.

FOLDER holds config.json and *.safetensors of DeepSeek-V3, DeepSeek-V3.2 or Qwen3-Next, as `save_pretrained` writes.
"""

import sys

import torch
from tandem.backbone.interop.load import load
from torch import Tensor


def main(folder: str) -> Tensor:
    """Logits (1, 4, V) of the tokens 1, 2, 3, 4."""
    model = load(folder)
    with torch.no_grad():
        return model(torch.tensor([[1, 2, 3, 4]]))[1]


if __name__ == "__main__":
    print(main(sys.argv[1]).argmax(-1).tolist())
