"""What the steps of parameter groups have in common, whichever framework's tensors the parameters are.

The groups are dictionaries of hyperparameters, as PyTorch has them; some numbers in them may be given by schedules. A step
looks up the tensors, measures the gradient where an option asks for it, asks ``adamas.rule`` for the numbers of this step,
and hands both to the engine. This package imports no framework.
"""

from .memory import Memory
from .plan import Plan
from .stepping import Stepping

__all__ = ["Memory", "Plan", "Stepping"]
