"""Mutation tests of the modules that determine results."""
