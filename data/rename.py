"""Other programs' names for what we call `action`, `observation.state` and `observation.images.*`.

--rename state=observation.state actions=action image=observation.images.front
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import DataError
from .files import check_name

USUAL = {  # what other programs call them
    "action": ("actions", "action_joints", "actions.joint"),
    "observation.state": ("state", "states", "observation.states", "proprio", "observation.proprio", "qpos"),
}


def parse_rename(pairs: Sequence[str]) -> dict[str, str]:
    """("state=observation.state", ...) -> {"state": "observation.state", ...}. DataError where a pair is none."""
    rename: dict[str, str] = {}
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not equals or not old or not new:
            raise DataError(f"--rename {pair!r}: write THEIR_NAME=OUR_NAME, e.g. actions=action")
        if old in rename or new in rename.values():
            raise DataError(f"--rename {pair!r}: {old if old in rename else new} is named twice")
        rename[old] = check_name(new, "--rename")
    return rename


def renamed_features(
    features: Mapping[str, Any], rename: Mapping[str, str], where: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """Features of info.json under our names, and {our name: the files' name} of all."""
    if unknown := sorted(rename.keys() - features.keys()):
        raise DataError(
            f"{where}: --rename names {unknown[0]!r}, which the data set does not have; it has {sorted(features)}"
        )
    names = {key: rename.get(key, key) for key in features}
    if twice := [new for new in rename.values() if list(names.values()).count(new) > 1]:
        raise DataError(f"{where}: --rename gives two features the name {twice[0]!r}; choose another")
    return {names[key]: value for key, value in features.items()}, {new: old for old, new in names.items()}


def proposal(missing: Sequence[str], features: Mapping[str, Any]) -> str:
    """What to do about features that are missing: the flag, where other names look like them."""
    likely = {wanted: key for wanted in missing for key in features if _means(key, wanted)}
    if likely.keys() >= {*missing}:
        return f"pass --rename {' '.join(f'{key}={wanted}' for wanted, key in likely.items())}"
    return f"it has {sorted(features)}; if one of these is it, pass --rename NAME={missing[0]}"


def _means(key: str, wanted: str) -> bool:
    return key in USUAL.get(wanted, ()) or key.rpartition(".")[2].rstrip("s") == wanted.rpartition(".")[2]
