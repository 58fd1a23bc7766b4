"""From a checkpoint and (reference image, driving video) pairs to videos that start at the image."""
