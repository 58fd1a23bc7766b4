"""Data: clips, artifacts, video files, skeletons, shards and sampling order. Does not import neural networks."""
