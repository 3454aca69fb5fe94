"""Imitation learning: recipes, the two stages, the loop, and the folder of a run."""
