"""Published figures: measured by commands, kept as files, shown on pages."""
