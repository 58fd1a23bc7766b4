"""Low-rank adapters: training, loading of published files, and export."""
