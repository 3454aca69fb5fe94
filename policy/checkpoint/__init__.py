"""Policies on disk: what a checkpoint holds, how it is written and read, and how it is made small."""
