"""Jobs: packets of rows through stages on Ray, training on Ray Train and DeepSpeed."""
