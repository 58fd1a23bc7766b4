"""Networks for curation: aesthetics, person count, shots, text, motion smoothness, captions."""
