"""Low-rank adapters: trained here, and read from and written for other programs."""
