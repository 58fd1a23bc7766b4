"""From accepted clips to shards of latents, image features and text embeddings that training reads."""
