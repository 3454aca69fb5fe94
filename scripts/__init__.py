"""The command line: one file per verb, each with a frozen dataclass `Args` and `main(args) -> exit code`."""
