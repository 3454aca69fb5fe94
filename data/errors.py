"""The one error of this package: a line that says what is wrong, where, and what to do."""


class DataError(ValueError):
    """Bad input or a damaged dataset. The command line prints it and exits with code 2."""
