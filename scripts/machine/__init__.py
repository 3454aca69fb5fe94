"""This machine: its OpenGL, its memory, its set-up."""
