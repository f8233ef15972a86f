"""`python -m univfd`."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Entry point; what is interrupted while its code is still being read has nothing to show for it."""
    try:
        from .cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
