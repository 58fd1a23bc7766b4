"""Benchmarks: misaligned pairs are measured, selected and written; clips are stitched to their reference images."""
