"""What an evaluation shows: its page, a CSV and a LaTeX table, all from one list of results."""
