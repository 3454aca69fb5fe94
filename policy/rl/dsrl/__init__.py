"""DSRL: reinforcement learning of the noise of a frozen flow. The reference without imitation is here too."""
