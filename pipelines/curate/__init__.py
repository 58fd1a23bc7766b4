"""Curation: turn a folder of videos into clips with one verdict each (ingest, probe, shots, score, pose, select)."""
