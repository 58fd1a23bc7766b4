"""How a job runs on machines: packets through stages on Ray Data, training on Ray Train and DeepSpeed."""
