"""The best one-to-one mapping: the Hungarian method, small enough to be read.

Kuhn, "The Hungarian method for the assignment problem" (1955), in the form with potentials and shortest augmenting
paths (Jonker and Volgenant 1987), O(rows² × columns).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


def best_assignment(gain: Matrix) -> list[tuple[int, int]]:
    """Pairs ``(row, column)``, each row and column at most once, with the greatest sum of ``gain [rows, columns]``.

    As many pairs as there are rows or columns, whichever are fewer; by row.
    """
    if gain.shape[0] > gain.shape[1]:
        return sorted((row, column) for column, row in best_assignment(gain.T))
    rows, columns = gain.shape
    cost = gain.max(initial=0) - gain
    row_potential, column_potential = np.zeros(rows + 1), np.zeros(columns + 1)
    row_of = np.zeros(columns + 1, dtype=np.int64)  # from 1; 0 is nobody, and column 0 the row that is placed now
    for row in range(1, rows + 1):
        row_of[0], column = row, 0
        shortest = np.full(columns + 1, np.inf)
        came_from = np.zeros(columns + 1, dtype=np.int64)
        done = np.zeros(columns + 1, dtype=np.bool_)
        while row_of[column]:
            done[column] = True
            here = row_of[column]
            reduced = np.full(columns + 1, np.inf)
            reduced[1:] = cost[here - 1] - row_potential[here] - column_potential[1:]
            better = ~done & (reduced < shortest)
            shortest[better], came_from[better] = reduced[better], column
            column = int(np.where(done, np.inf, shortest).argmin())
            step = shortest[column]
            row_potential[row_of[done]] += step
            column_potential[done] -= step
            shortest[~done] -= step
        while column:
            row_of[column] = row_of[came_from[column]]
            column = int(came_from[column])
    return sorted((int(row_of[column]) - 1, column - 1) for column in range(1, columns + 1) if row_of[column])
