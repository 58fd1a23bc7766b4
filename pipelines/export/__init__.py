"""Export of accepted clips to common file formats: clips, pose videos, keypoints, captions, manifests."""
