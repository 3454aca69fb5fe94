"""Pretrained models of the Hugging Face hub: loaded through transformers, adapted by LoRA through peft, both optional.

transformers and peft are imported when a model is asked for, never on import of this file. Everything that can go wrong
while loading becomes one `PretrainedError` that says what to do: a package is missing, the model is neither in the
local cache nor reachable, or it is a model of another kind.

LoRA (Hu et al. 2021, arXiv 2106.09685): y = W x + (alpha / rank) B A x with W frozen, B = 0 at the start.

Notable choices
- An adapter goes into the language model alone. A checkpoint's vision tower often has linear layers of the same names.
- Adapters are fp32 whatever the trunk is: an optimiser's small steps vanish in bf16.
Left out: `trust_remote_code`. A checkpoint that needs its own code is refused.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

INSTALL = "pip install 'tandem-vla[pretrained]'"


class PretrainedError(OSError):
    """What could not be loaded, and what to do. One line."""


def load(of: str, model: str, method: str = "from_pretrained", **options: Any) -> Any:
    """What transformers' class `of` makes of a model: id on the hub, or a folder."""
    try:
        import transformers

        return getattr(getattr(transformers, of), method)(model, **options)
    except ImportError as error:
        raise PretrainedError(f"loading {model}: {_first_line(error)}; {INSTALL}") from error
    except OSError as error:
        raise PretrainedError(
            f"{model} is no folder with a model, is not in the local cache, and could not be fetched "
            f"({_first_line(error)}). Run `hf download {model}` once on a machine with a network, then set "
            f"HF_HUB_OFFLINE=1; or pass the folder that holds its config.json"
        ) from error
    except ValueError as error:
        raise PretrainedError(f"{model} does not load as {of}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def add_lora(model: nn.Module, rank: int, alpha: int, targets: Collection[str]) -> None:
    """Freezes the model. Every linear layer of its language model whose name ends in a target gets an adapter."""
    model.requires_grad_(False)
    linear = linear_layers(model)
    chosen = [name for name in linear if name.rsplit(".", 1)[-1] in targets]
    if not chosen:
        known = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in linear}))
        raise PretrainedError(f"no linear layer of the language model is named {sorted(targets)}; there are: {known}")
    try:
        import peft
    except ImportError as error:
        raise PretrainedError(f"LoRA: {_first_line(error)}; {INSTALL}") from error
    # Names are whole paths: peft matches a path exactly, or one that ends in "." and the path.
    peft.inject_adapter_in_model(peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=chosen), model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)


def linear_layers(model: Any) -> list[str]:
    """Paths, inside the model, of the linear layers of its language model."""
    decoder = model.get_decoder()
    inside = {id(module) for module in decoder.modules() if isinstance(module, nn.Linear)}
    return [name for name, module in model.named_modules() if id(module) in inside]
