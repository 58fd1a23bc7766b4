"""Checkpoints: files of tensors, key maps between layouts, components, conversion."""
