"""Galleries: validation clips rendered with the weights of some steps."""
