"""What the tests of the kernels share. They run on a GPU, or in Triton's interpreter over tensors on the CPU.

The interpreter is chosen once for a process, before Triton is imported: ``TRITON_INTERPRET=1``. Without it, these tests run
only where there is a GPU.
"""

from __future__ import annotations

import os

import torch

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

collect_ignore_glob = [] if IS_INTERPRETED or torch.cuda.is_available() else ["test_*.py"]
