"""The time of a step of Muon on GPT-2 small, compared with torch.optim.Muon and torch.optim.AdamW (fused).

    python benchmarks/bench_muon.py              # the products of matrices in float32 and in bfloat16
    python benchmarks/bench_muon.py float32

Both sides step all parameters: Muon the hidden matrices, AdamW the others. torch.optim.Muon has one path, a loop over the
tensors, and multiplies in bfloat16 alone; for float32, its iterations are run without the cast. Both sides run in one process,
in turn, on two threads. It needs a quiet machine, and some minutes where the processor has no products in bfloat16.
"""

from __future__ import annotations

import sys

import torch
import torch.optim._muon
from bench_step import THREADS, gpt2_small, with_gradients
from torch import Tensor
from turns import compare, timed

import adamas.torch

BOUND = 0.9
ROUNDS = 9


def iterations_without_cast(grad: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """The Newton–Schulz iterations of torch.optim.Muon in the gradient's own dtype."""
    a, b, c = coefficients
    is_tall = grad.size(0) > grad.size(1)
    x = grad.T if is_tall else grad
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        update = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, update, x, beta=a)
    return x.T if is_tall else x


def row(dtype: str) -> None:
    """Prints the times of both sides with products in this dtype."""
    params = with_gradients(gpt2_small(), torch.float32)  # the same for both: where tensors lie changes a step
    hidden = [p for p in params[2:] if p.ndim == 2]
    others = [*params[:2], *(p for p in params if p.ndim == 1)]
    groups = [{"params": hidden}, {"params": others, "use_muon": False, "eps": 1e-8}]
    ours = adamas.torch.Muon(groups, ns_dtype=dtype)
    muon = torch.optim.Muon(hidden)
    adamw = torch.optim.AdamW(others, lr=1e-3, weight_decay=0.1, fused=True)

    def theirs() -> None:
        muon.step()
        adamw.step()

    compare(f"muon, {dtype} (bound {BOUND})", timed(ours.step), "torch", timed(theirs), ROUNDS)


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    with_cast = torch.optim._muon._zeropower_via_newtonschulz
    for dtype in sys.argv[1:] or ("float32", "bfloat16"):
        iterations = iterations_without_cast if dtype == "float32" else with_cast
        torch.optim._muon._zeropower_via_newtonschulz = iterations
        row(dtype)
