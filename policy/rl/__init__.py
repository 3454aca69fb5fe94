"""Reinforcement learning after imitation: one algorithm, one file; experience, rollouts and curves exist once."""
