"""Importing this package registers the tabletop tasks."""

from . import buttons, drawer, pick_place, push, reach, stack

__all__ = ["buttons", "drawer", "pick_place", "push", "reach", "stack"]
