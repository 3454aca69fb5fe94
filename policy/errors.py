"""The one error of this layer: bad checkpoints, configurations and inputs, said in one line."""


class PolicyError(ValueError):
    """What was wrong, where, and what to do. The command line prints it and exits with code 2."""


class AgentGaveUp(PolicyError):
    """An agent ended its episode: of that one alone, others may go on."""


class CannotBegin(PolicyError):
    """No episode of this task can begin, whatever its seed."""
