"""Which job runs, in which order: the command line, the presets and the Prefect flows."""
