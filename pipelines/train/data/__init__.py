"""Training batches from cached latents: split, random draws, pose simulation, prefetching."""
