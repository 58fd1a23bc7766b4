"""Removal of a source: new versions of every artifact without it."""
