"""Pose estimators: networks that find people and their keypoints, and tracking through a clip."""
