"""Cheaper sampling: values kept between steps, step caches, offload and memory estimates."""
