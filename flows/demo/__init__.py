"""The demo: every flow at tiny size on procedural dancers."""
