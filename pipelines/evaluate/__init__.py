"""From renders, and the truth where there is one, to rows of (video, metric, value) and a page."""
