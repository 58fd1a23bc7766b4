"""What makes sampling cheaper: values kept between steps, step caches, offload, memory estimates."""
