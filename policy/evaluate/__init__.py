"""Evaluation: episodes, workers that may crash, and statistics."""
