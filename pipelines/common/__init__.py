"""What several jobs share: crops, poses, components, verdicts, artifacts of older versions."""
