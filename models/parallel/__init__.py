"""Several processes that evaluate the velocity together: a share of the guidance branches each, or of the tokens."""
