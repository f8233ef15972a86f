"""`python -m univfd`."""

import os
import sys
from typing import NoReturn

# The threads of OpenBLAS, which NumPy's wheels have, turn round for 2^26 cycles after each product: a tenth of the
# processor time of a first verdict. After 2^20 they sleep as well. It is read once, when NumPy is imported.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")


def main() -> NoReturn:
    """Entry point; what is interrupted while its code is still being read has nothing to show for it."""
    try:
        from .cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
