"""What each of four processes does in ``test_distributed.py``."""

from __future__ import annotations

import ranks_bits
import ranks_checkpoints
import ranks_decisions
import ranks_training
import ranks_traps
from ranks import Checks, main

PARTS = (ranks_bits, ranks_decisions, ranks_training, ranks_traps, ranks_checkpoints)
check = Checks({name: function for part in PARTS for name, function in part.check.items()})
nightly = ranks_bits.nightly | ranks_checkpoints.nightly  # the checks that only `make test-nightly` makes

if __name__ == "__main__":
    main(check)
