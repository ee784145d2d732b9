"""A slow average in signed 8-bit codes, compared with the exact one, for ``bench_formats.py averages`` and a test."""

from __future__ import annotations

import numpy as np

from adamas.rule import formats


def error(beta: float, dithered: bool, steps: int = 20_000) -> tuple[float, float]:
    """The squared relative error of the average m ← β·m + (1 − β)·g at the end, and the share of its signs that are wrong.

    Each gradient is the sum of a mean, which differs between elements, and noise of the same size. Halfway, a third of the
    means switch sign.
    """
    rng, shape = np.random.default_rng(0), (4, formats.BLOCK)
    mean, block, position = rng.standard_normal(shape), np.arange(4)[:, None], np.arange(formats.BLOCK)
    switched = np.where(rng.random(shape) < 1 / 3, -mean, mean)
    codes, scale, exact = np.zeros(shape, np.int64), np.zeros((4, 1), np.float32), np.zeros(shape)
    keep, add = np.float32(beta), np.float32(1 - beta)
    for step in range(1, steps + 1):
        g = ((mean if step <= steps // 2 else switched) + rng.standard_normal(shape)).astype(np.float32)
        exact = beta * exact + (1 - beta) * g
        m = keep * formats.decode_signed(np, codes, scale) + add * g
        thresholds = formats.thresholds(np, block, position, tensor_key=7, step=step, draw=4) if dithered else None
        codes, scale = formats.encode_signed(np, m, thresholds, keep)
    found = formats.decode_signed(np, codes, scale)
    return float(np.square(found - exact).sum() / np.square(exact).sum()), float((found * exact < 0).mean())
