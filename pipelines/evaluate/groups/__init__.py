"""Groups of metrics: each a function of a video and the judges that returns the scores of its metrics."""
