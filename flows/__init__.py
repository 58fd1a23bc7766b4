"""The command line, the presets and the Prefect flows."""
