"""The metrics of the catalogue, one module for each family."""
