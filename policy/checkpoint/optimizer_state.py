"""An optimiser's state as tensors by name and settings for JSON: nothing in a checkpoint can run code."""

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import PolicyError

ADAM = {"step", "exp_avg", "exp_avg_sq"}  # what Adam and AdamW keep for every parameter


def split(state: dict[str, Any]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """state_dict() of an optimiser -> {"0.exp_avg": …}, its groups."""
    moments = {f"{i}.{name}": value for i, entry in state["state"].items() for name, value in entry.items()}
    return moments, state["param_groups"]


def joined(moments: dict[str, Tensor], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """What `load_state_dict` takes, from what `split` gave. PolicyError where it cannot have given that."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        index, _, name = key.partition(".")
        if not (index.isdecimal() and index.isascii() and len(index) < 10 and name):
            raise PolicyError(f"{key[:60]} is no tensor of an optimiser; use an older checkpoint")
        state.setdefault(int(index), {})[name] = value
    if not isinstance(groups, list) or not all(
        isinstance(g, dict) and isinstance(g.get("params"), list) for g in groups
    ):
        raise PolicyError("the optimiser's groups are none; use an older checkpoint")
    return {"state": state, "param_groups": groups}


def load_into(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Takes up what `joined` gave. PolicyError where it is another optimiser's."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    try:
        for index, entry in state["state"].items():
            if entry.keys() != ADAM:
                raise ValueError(f"entry {index} has {', '.join(sorted(entry))[:80]}")
            for name, value in entry.items():
                if value.dim() and value.shape != parameters[index].shape:
                    raise ValueError(f"{index}.{name} has shape {tuple(value.shape)}")
        pairs = zip(state["param_groups"], optimizer.param_groups, strict=True)
        groups = [{name: _checked(name, stored.get(name, own), own) for name, own in group.items() if name != "params"}
                  | {"params": stored["params"]} for stored, group in pairs]  # fmt: skip
        optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
    except (ValueError, LookupError, TypeError, RuntimeError, OverflowError) as error:
        raise PolicyError(f"the optimiser's state is not this one's ({error}); use an older checkpoint") from None


def _checked(name: str, stored: Any, own: Any) -> Any:
    """A setting of the kind that the optimiser has now: a list of numbers, a number, or a switch."""
    if isinstance(own, (list, tuple)):
        if isinstance(stored, (list, tuple)) and len(stored) == len(own):
            return type(own)(_checked(name, *pair) for pair in zip(stored, own, strict=True))
    elif isinstance(own, bool) or own is None:
        if isinstance(stored, bool) or stored is None:
            return stored
    elif isinstance(stored, (int, float)) and not isinstance(stored, bool) and math.isfinite(stored):
        return stored
    raise ValueError(f"{name} is {str(stored)[:40]!r}")
