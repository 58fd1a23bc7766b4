"""From accepted clips to files that any other project reads: clips, pose videos, keypoints, captions, manifests."""
