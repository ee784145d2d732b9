"""The update rules of the Adam family, each stated once.

A member is declared in one file of ``adamas.rule.members``. Everything else is generated from that declaration: the engine's
loops, the step over arrays, the checks of hyperparameters, and the signatures and documentation of the adapters.

The modules that the build of the engine runs (``declaration``, ``house``, ``sentence``, ``members``, ``recorder``,
``lowering`` and ``cpp``) import only the standard library.
"""
