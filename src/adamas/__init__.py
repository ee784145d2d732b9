"""Adamas: the Adam family of optimizers as one engine.

Importing this package costs NumPy alone. The adapters (``adamas.torch``, …) are imported by those who have the framework.
"""

__version__ = "0.1.0"
