"""Which tests of the kernels run. Those that step tensors run on a GPU, or in Triton's interpreter over tensors on the CPU.

The interpreter is chosen once for a process, before Triton is imported: ``TRITON_INTERPRET=1``. Nothing is compiled then.
"""

from __future__ import annotations

import os

import torch

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

collect_ignore = ["test_compiled.py"] if IS_INTERPRETED else []
if not (IS_INTERPRETED or torch.cuda.is_available()):
    collect_ignore.append("test_kernels.py")
