"""Metrics of a run: measurement, metrics.jsonl, trackers, progress bar and report."""
