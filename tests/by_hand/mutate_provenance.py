"""Thousands of damaged and hostile files through the provenance reader: no crash, no hang, no leaked handle.

python tests/by_hand/mutate_provenance.py 2000
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import provenance_files as make
from mutations import mutated
from univfd.provenance import DEADLINE, ProvenanceReader
from univfd.types import ImageRef


def seeds() -> list[bytes]:
    """Whole files with something to read in them."""
    signers = make.make_signers()
    files = [signers.sign(make.plain(format), format) for format in make.MIME]
    files += [make.with_text(format, *make.GENERATORS[name][:2]) for format in make.MIME for name in make.GENERATORS]
    files += [make.with_xmp(format, make.xmp(' xmp:CreatorTool="x"')) for format in make.MIME]
    return files + [make.plain(format) for format in ("GIF", "TIFF", "AVIF", "BMP")]


def main(count: int) -> None:
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    times = []
    with ProvenanceReader() as reader:
        reader.read(ImageRef("first", make.plain()))
        before = len(list(Path("/proc/self/fd").iterdir()))
        for name, data in mutated(seeds(), count, seed=1):
            start = time.perf_counter()
            read = reader.read(ImageRef(name, data))
            times.append(time.perf_counter() - start)
            outcomes[read.c2pa] += 1
            if read.c2pa == "not-read":
                reasons[read.findings[0].found[:90]] += 1
            assert times[-1] < DEADLINE + 2, (name, times[-1])
            assert not any("Too many open files" in f.found for f in read.findings), name
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    times.sort()
    print(f"{count} files, {sum(times):.0f} s; median {times[count // 2] * 1e3:.1f} ms, slowest {times[-1]:.2f} s")
    print(dict(outcomes))
    for reason, n in reasons.most_common(20):
        print(n, reason)


if __name__ == "__main__":
    main(int(sys.argv[1]))
