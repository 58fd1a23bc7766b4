"""Training states: written beside the training, checked, converted to another world size."""
