"""Metrics of a run: measured, written, tracked, shown."""
