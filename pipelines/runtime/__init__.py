"""Job execution: row stages, packets, Ray actors and Ray Data, a local Ray, job submission, local copies of files."""
