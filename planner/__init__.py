"""System 2, the world model, and plan search: everything that looks further ahead than one action chunk."""
