"""From scores to verdicts: gates, copies, quotas, targets, a person's decisions. No video is touched."""
