"""Adamas for PyTorch: drop-in replacements for the optimizers of ``torch.optim``.

>>> import torch, adamas.torch
>>> model = torch.nn.Linear(2, 1)
>>> optimizer = adamas.torch.AdamW(model.parameters(), lr=1e-3)
"""

from ..extras import needs

with needs("torch"):
    from ..lr_finding import LRFinding, LRFindingError, LRRule
    from ..step.memory import Memory
    from . import members
    from .by_name import from_name
    from .find_lr import find_lr
    from .groups import ParamGroups, matrix_groups, param_groups
    from .kernels import warm_up
    from .lr_scheduler import LRScheduler
    from .members import *  # noqa: F403 - everything in its __all__, which `make members` writes
    from .memory import plan_memory
    from .optimizer import Optimizer
    from .own import OwnOptimizer
    from .release import release

__all__ = [
    "LRFinding",
    "LRFindingError",
    "LRRule",
    "LRScheduler",
    "Memory",
    "Optimizer",
    "OwnOptimizer",
    "ParamGroups",
    "find_lr",
    "from_name",
    "matrix_groups",
    "param_groups",
    "plan_memory",
    "release",
    "warm_up",
    *members.__all__,
]
