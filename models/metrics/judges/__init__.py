"""Frozen networks that metrics read features from, one module each; import the module that is needed."""
