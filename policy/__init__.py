"""Policies: their networks, how they are stored, trained, run, measured, and improved by their own experience.

networks/    scene encoder, goal readout, controller, and what reinforcement learning adds
checkpoint/  policies on disk
train/       imitation learning
act/         the agent
evaluate/    episodes, workers, statistics
rl/          reinforcement learning
"""
