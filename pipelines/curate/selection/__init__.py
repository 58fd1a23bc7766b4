"""Selection: from scores to verdicts, by gates, duplicates, quotas, targets and manual decisions. Reads no video."""
