"""The one-to-one assignment with the largest gain: which rendered person is which driven one."""

import numpy as np
from numpy.typing import NDArray

from ...datasets.arrays import Floats64


def assign(gains: Floats64) -> NDArray[np.int64]:
    """Return the column of each row [P] of the one-to-one assignment with the largest sum; −1 for rows without one.

    The Hungarian method by shortest augmenting paths, O(P² Q), because SciPy is not needed elsewhere.
    """
    num_rows, num_columns = gains.shape
    if num_rows > num_columns:
        rows = assign(gains.T)
        columns = np.full(num_rows, -1)
        columns[rows] = np.arange(num_columns)
        return columns
    # One-based: column 0 holds the row that looks for a place.
    row_price, column_price = np.zeros(num_rows + 1), np.zeros(num_columns + 1)
    row_of = np.zeros(num_columns + 1, np.int64)
    for row in range(1, num_rows + 1):
        row_of[0], column = row, 0
        slack, previous = np.full(num_columns + 1, np.inf), np.zeros(num_columns + 1, np.int64)
        done = np.zeros(num_columns + 1, bool)
        while row_of[column]:
            done[column], i = True, row_of[column]
            reduced = -gains[i - 1] - row_price[i] - column_price[1:]
            nearer = ~done[1:] & (reduced < slack[1:])
            slack[1:][nearer], previous[1:][nearer] = reduced[nearer], column
            following = int(np.where(done, np.inf, slack)[1:].argmin()) + 1
            delta = slack[following]
            row_price[row_of[done]] += delta
            column_price[done] -= delta
            slack[~done] -= delta
            column = following
        while column:
            row_of[column], column = row_of[previous[column]], previous[column]
    columns = np.full(num_rows, -1)
    taken = np.flatnonzero(row_of[1:])
    columns[row_of[1:][taken] - 1] = taken
    return columns
