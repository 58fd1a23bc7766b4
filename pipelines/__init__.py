"""Jobs: packets of rows through stages on Ray Data, training on Ray Train and DeepSpeed."""
