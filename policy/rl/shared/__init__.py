"""Code shared by the methods of reinforcement learning: episodes, experience, frames, seeds and the run."""
