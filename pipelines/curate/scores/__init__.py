"""What is measured of a clip: pictures, motion, text, people, pose; one score a column."""
