"""Checks and cost estimates before a stage starts."""
