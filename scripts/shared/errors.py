"""Errors of the command line itself."""


class UserError(ValueError):
    """What was wrong, where, and what to do. Printed as one line. Exit code 2."""
