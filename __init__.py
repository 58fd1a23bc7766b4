"""SteadyDancer: animate a person so that the video starts exactly at the reference image.

Rooms, each importing only those below it: `flows` (which job runs, in which order), `pipelines` (how a job runs on
machines), `models` (what the paper says), `datasets` (what the data is).
"""

__version__ = "0.1.0"


class SteadyDancerError(Exception):
    """Something a person can mend. The message says what happened and what to do; commands print it and end with 1."""
