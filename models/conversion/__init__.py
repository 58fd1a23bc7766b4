"""Conversion of checkpoints between layouts: the plan, and the command that carries it out."""
