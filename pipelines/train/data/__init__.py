"""From cached latents to batches: split, draws, pose simulation, prefetch."""
