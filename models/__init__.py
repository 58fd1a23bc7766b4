"""What the paper says: the network, its objectives, its sampler, and the networks around it."""
