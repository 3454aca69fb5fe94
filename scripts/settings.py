"""What was measured under other settings must not come into the same table."""

import json
from pathlib import Path
from typing import Any

from data.layout import json_bytes, write_atomic
from scripts.errors import UserError


def same_settings(output: Path, settings: dict[str, Any]) -> None:
    """Keeps them in the folder; UserError where it was begun with others."""
    settings, file = json.loads(json.dumps(settings, default=str)), output / "settings.json"
    if not file.exists():
        write_atomic(file, json_bytes(settings))
    stored = json.loads(file.read_text())
    if differ := [key for key in settings if stored.get(key) != settings[key]]:
        name = differ[0].replace("_", "-")
        raise UserError(f"{output} was made with another --{name} ({stored.get(differ[0])}); choose another --output")
