"""What the data is: clips, artifacts, video files, skeletons, shards and their order. No network is imported here."""
