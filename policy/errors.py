"""The one error of this layer: bad checkpoints, configurations and inputs, said in one line."""


class PolicyError(ValueError):
    """What was wrong, where, and what to do. The command line prints it and exits with code 2."""
