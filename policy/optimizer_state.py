"""An optimiser's state as tensors by name and settings for JSON: nothing in a checkpoint can run code."""

from typing import Any

from torch import Tensor


def split(state: dict[str, Any]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """state_dict() of an optimiser -> {"0.exp_avg": …}, its groups."""
    moments = {f"{i}.{name}": value for i, entry in state["state"].items() for name, value in entry.items()}
    return moments, state["param_groups"]


def joined(moments: dict[str, Tensor], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """What `load_state_dict` takes, from what `split` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": groups}
