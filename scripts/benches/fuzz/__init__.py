"""Damaged files: whatever they hold, reading them is an error of one line."""
