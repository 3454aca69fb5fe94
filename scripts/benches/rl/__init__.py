"""What reinforcement learning adds."""
