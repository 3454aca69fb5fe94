"""Transformer blocks that planner, controller and world model share."""
