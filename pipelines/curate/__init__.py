"""From a folder of videos to clips with a verdict each: ingest, probe, shots, scores, pose, select."""
