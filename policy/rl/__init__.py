"""Reinforcement learning after imitation. One folder a method, and `shared`. No method imports another."""
