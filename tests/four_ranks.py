"""What each of four processes does in ``test_distributed.py``."""

from __future__ import annotations

import ranks_bits
import ranks_checkpoints
import ranks_decisions
import ranks_matrices
import ranks_together
import ranks_training
import ranks_traps
import ranks_watch
from ranks import Checks, main

check = Checks()
PARTS = (
    ranks_bits,
    ranks_decisions,
    ranks_training,
    ranks_traps,
    ranks_checkpoints,
    ranks_watch,
    ranks_together,
    ranks_matrices,
)
for part in PARTS:
    check.take(part.check)

if __name__ == "__main__":
    main(check)
