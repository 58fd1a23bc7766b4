"""Job execution: row stages, packets, Ray Data, a local Ray, job submission, local copies of files."""
