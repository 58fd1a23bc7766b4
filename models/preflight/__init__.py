"""GPU memory before there is a GPU: a forecast for rendering, and traces with fake CUDA tensors that check it."""
