"""Orthogonalization of matrices by the Newton–Schulz iteration, with products of matrices alone, over any array namespace.

An iteration replaces X by a·X + b·(X·Xᵀ)·X + c·(X·Xᵀ)²·X, which keeps the singular vectors of X and moves its singular values
toward 1 (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon). The result is the same as of iterations written out,
but for rounding, in fewer operations:

- X·Xᵀ and what is computed of it are symmetric: of large ones, one of the two blocks beside the diagonal is copied;
- for matrices that are much wider than high, several iterations are made on X·Xᵀ alone, and X is multiplied once by what they
  come to. X·Xᵀ has the squares of the singular values, so after three iterations, in which the small ones have grown, it is
  computed again. The errors stay within twice those of iterations on X.
"""

from __future__ import annotations

from functools import partial
from typing import Any

Array = Any

_LEAST_WIDTH = 2  # columns a row from which iterations are made on X·Xᵀ; below, they take more operations there
_MOST_TOGETHER = 3  # iterations on one X·Xᵀ
_LEAST_BLOCKS = 512  # rows from which a symmetric product is computed in blocks
_BLOCK_DTYPES = ("float32", "float64")  # products of blocks in 16 bits are slower than what they save


def orthogonalized(
    xp: Any, x: Array, steps: int, coefficients: tuple[float, float, float], eps: float, dtype: str
) -> Array:
    """Matrices with the singular vectors of ``x``, and singular values near 1.

    Args:
        xp: an array namespace, with ``matmul`` and ``swapaxes`` besides the functions of rules.
        x: the matrices, of shape (…, rows, columns).
        steps: the number of iterations.
        coefficients: a, b and c.
        eps: the smallest norm that a matrix is divided by before the first iteration.
        dtype: the dtype of the products.
    """
    given = xp.dtype_name(x)
    is_high = x.shape[-2] > x.shape[-1]
    if is_high:
        x = xp.swapaxes(x, -1, -2)
    norm = xp.sqrt((x * x).sum(-1).sum(-1))[..., None, None]
    x = xp.cast(x / xp.where(norm < eps, eps, norm), dtype)
    if x.shape[-1] < _LEAST_WIDTH * x.shape[-2]:
        for _ in range(steps):
            x = xp.matmul(_factor(xp, x, 1, coefficients), x)
    else:
        for done in range(0, steps, _MOST_TOGETHER):
            x = xp.matmul(_factor(xp, x, min(_MOST_TOGETHER, steps - done), coefficients), x)
    return xp.cast(xp.swapaxes(x, -1, -2) if is_high else x, given)


def _factor(xp: Any, x: Array, count: int, coefficients: tuple[float, float, float]) -> Array:
    """The symmetric matrix that so many iterations multiply ``x`` by."""
    a, b, c = coefficients
    gram = symmetric_product(xp, x, xp.swapaxes(x, -1, -2))
    plus_diagonal = getattr(xp, "plus_diagonal", partial(_plus_diagonal, xp))
    factor = None
    for left in reversed(range(count)):
        one = plus_diagonal(symmetric_product(xp, gram, plus_diagonal(c * gram, b)), a)
        if left:  # X·Xᵀ after the iteration; all of these matrices commute
            gram = symmetric_product(xp, one, symmetric_product(xp, one, gram))
        factor = one if factor is None else symmetric_product(xp, one, factor)
    return factor


def _plus_diagonal(xp: Any, x: Array, number: float) -> Array:
    """The matrices with a number added on their diagonals."""
    row = xp.index((x.shape[-1],), 0)
    return xp.where(row[:, None] == row, x + number, x)


def symmetric_product(xp: Any, x: Array, y: Array) -> Array:
    """x·y, which is known to be symmetric."""
    rows = x.shape[-2]
    if rows < _LEAST_BLOCKS or xp.dtype_name(x) not in _BLOCK_DTYPES:
        return xp.matmul(x, y)
    half = rows // 2
    upper, lower, left, right = x[..., :half, :], x[..., half:, :], y[..., :, :half], y[..., :, half:]
    beside = xp.matmul(lower, left)
    first = xp.concatenate([xp.matmul(upper, left), xp.swapaxes(beside, -1, -2)], -1)
    return xp.concatenate([first, xp.concatenate([beside, xp.matmul(lower, right)], -1)], -2)
