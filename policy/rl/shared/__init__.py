"""What the methods of reinforcement learning share."""
