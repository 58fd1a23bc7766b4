"""Evaluation: renders, and ground truth if there is any → rows of (video, metric, value) and a page."""
