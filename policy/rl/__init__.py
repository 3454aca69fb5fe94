"""Reinforcement learning after imitation: a room a method, and what they share. No method imports another."""
