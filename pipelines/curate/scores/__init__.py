"""Scores of a clip: pictures, motion, text, people and pose; one column per score."""
