"""Networks that score clips: aesthetics, people, shots, text, motion, captions."""
