"""From accepted clips to files that other trainers read: videos, pose videos, captions."""
