"""What all verbs of the command line share: their errors, and checks of what was asked for."""
