"""Static HTML pages: layout, charts, curves."""
