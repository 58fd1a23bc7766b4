"""Training: three stages on Ray Train and DeepSpeed."""
