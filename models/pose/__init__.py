"""Pose estimation: detectors, keypoint networks, and tracking of people through a clip."""
