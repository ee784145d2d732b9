"""The parts of a declaration of your own optimizer. ``docs/own-member.md`` has an example.

The class of its optimizer is derived from ``adamas.torch.OwnOptimizer`` or ``adamas.numpy.OwnOptimizer``.
"""

from .rule.corrections import BETAS, BIAS_CORRECTION, EPS, EPS_MODE, bias_corrections, learning_rate, placed_eps
from .rule.declaration import Choice, Count, Flag, Member, Number, OwnRule, Share, Shares, State, Sum
from .rule.shared import DECAY, WEIGHT_DECAY

__all__ = [
    "BETAS",
    "BIAS_CORRECTION",
    "DECAY",
    "EPS",
    "EPS_MODE",
    "WEIGHT_DECAY",
    "Choice",
    "Count",
    "Flag",
    "Member",
    "Number",
    "OwnRule",
    "Share",
    "Shares",
    "State",
    "Sum",
    "bias_corrections",
    "learning_rate",
    "placed_eps",
]
