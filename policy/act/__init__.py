"""A policy at run time: the agent that acts, and the limits on its actions."""
