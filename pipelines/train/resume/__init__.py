"""Training states: written in the background, verified, converted to another world size."""
