"""The one error of this layer."""


class EnvError(ValueError):
    """What was wrong, where, and what to do. The command line prints it and exits with code 2."""
