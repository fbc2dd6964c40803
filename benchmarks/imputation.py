"""Seconds that ROAD takes to fill in one image: nine shares in both orders, beside a direct solver."""

import statistics

import numpy as np
from processes import Row, tell
from scipy import sparse
from scipy.sparse.linalg import spsolve
from timing import timed

from camlucida.maps import heat
from camlucida.metrics.imputation import linear

SIZE = 224
RANDOM = np.random.default_rng(0)
MAPS = {
    "a map of compact regions": heat(RANDOM.uniform(0, 1, (7, 7)).astype("float32"), (SIZE, SIZE)),
    "a map of scattered pixels": RANDOM.uniform(0, 1, (SIZE, SIZE)),
}


def masks(values: np.ndarray) -> np.ndarray:
    """What is removed of an image: a tenth to nine tenths of it, the highest values first, then the lowest first."""
    ranks = np.argsort(np.argsort(values.ravel())).reshape(values.shape) / values.size
    tenths = np.arange(1, 10)[:, None, None] / 10
    return np.concatenate([ranks >= 1 - tenths, ranks < tenths])


def direct(image: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """The same by a direct solver: the weights of neighbours are (1 2 1) by (1 2 1) without the middle, over 12."""
    line = sparse.diags([1.0, 2.0, 1.0], [-1, 0, 1], (SIZE, SIZE))
    weights = sparse.csr_matrix((sparse.kron(line, line) - 4 * sparse.eye(SIZE**2)) / 12)
    filled = image.reshape(SIZE**2, -1).astype("float64")
    rows = weights[missing.ravel()]
    matrix = sparse.diags(np.asarray(rows.sum(axis=1)).ravel()) - rows[:, missing.ravel()]
    filled[missing.ravel()] = spsolve(matrix.tocsc(), rows[:, ~missing.ravel()] @ filled[~missing.ravel()])
    return filled.reshape(image.shape)


def rows() -> list[Row]:
    image = RANDOM.uniform(0, 255, (SIZE, SIZE, 3)).astype("float32")
    found: list[Row] = []
    for name, values in MAPS.items():
        missing = masks(values)
        contenders = {
            "ours": lambda missing=missing: linear(image, missing),
            "direct": lambda missing=missing: [direct(image, one) for one in missing],
        }
        times = {kind: f"{statistics.median(seconds):.2f} s" for kind, seconds in timed(contenders, rounds=3).items()}
        found.append((f"ROAD, nine shares in both orders, {SIZE}x{SIZE}: {name}", "1 s", times["ours"]))
        found.append((f"{name}, by scipy's spsolve", "", times["direct"]))
    return found


if __name__ == "__main__":
    tell(rows())
