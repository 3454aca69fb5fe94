"""Rollouts as films and pages."""
