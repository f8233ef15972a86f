"""What listing a folder of very many files costs: memory and seconds.

python tests/by_hand/many_files.py [FILES]
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

from univfd.sources import expand


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for i in range(count):
            Path(scratch, f"{i:07}-a-name-of-some-length.jpg").touch()
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
        assert sum(1 for _ in expand(scratch)) == count
        spent = time.process_time() - start
        after = resource.getrusage(resource.RUSAGE_SELF)
        grown = (after.ru_maxrss - before.ru_maxrss) / 1024
        print(f"{count} files: {spent:.1f} CPU s, resident memory {grown:.0f} MB more")
        tracemalloc.start()
        assert sum(1 for _ in expand(scratch)) == count
        most = tracemalloc.get_traced_memory()[1] / 1e6
        print(f"at most {most:.1f} MB of Python's objects, {most * 1e6 / count:.0f} bytes a file")
        assert most * 1e6 / count < 500


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
