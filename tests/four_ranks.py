"""What each of four processes does in ``test_distributed.py``."""

from __future__ import annotations

import ranks_bits
import ranks_checkpoints
import ranks_decisions
from ranks import Checks, main

check = Checks({**ranks_bits.check, **ranks_decisions.check, **ranks_checkpoints.check})
nightly = ranks_bits.nightly | ranks_checkpoints.nightly  # the checks that only `make test-nightly` makes

if __name__ == "__main__":
    main(check)
