"""What was measured under other settings must not come into the same table."""

import json
from pathlib import Path
from typing import Any

from ..data.files import json_bytes, write_atomic
from .errors import UserError


def same_settings(output: Path, settings: dict[str, Any]) -> None:
    """Keeps them in the folder, with those that others asked for; UserError where it was begun with another value."""
    settings, file = json.loads(json.dumps(settings, default=str)), output / "settings.json"
    stored = json.loads(file.read_text()) if file.exists() else {}
    if differ := [key for key in settings if stored.get(key, settings[key]) != settings[key]]:
        name = differ[0].replace("_", "-")
        raise UserError(f"{output} was made with another --{name} ({stored[differ[0]]}); choose another --output")
    if settings.keys() - stored.keys():
        write_atomic(file, json_bytes(stored | settings))
