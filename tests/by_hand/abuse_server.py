"""The service under thousands of damaged and hostile files and of tiny requests: no crash, hang or leaked handle.

python tests/by_hand/abuse_server.py 2000 10000
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from mutate_provenance import seeds

from conftest import encoded, picture, toy_samples
from mutations import mutated
from serving import Server, serving
from univfd.backbones import open_backbone
from univfd.building import assemble, build_bank
from univfd.views import view


def handles(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def memory(server: Server) -> int:
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) // 1024 for line in text.splitlines() if line.startswith("VmRSS"))


def main(files: int, tiny: int) -> None:
    toy, cut = open_backbone("toy"), view("native")
    with tempfile.TemporaryDirectory() as folder:
        bank = build_bank(toy, cut, toy_samples(), added="2026-01-01").bank
        assemble("toy", toy, cut, bank, "linear", {}).save(Path(folder) / "toy")
        with serving("--detector", Path(folder) / "toy") as server, ThreadPoolExecutor(8) as pool:
            whole = encoded(picture(0))
            server.ask("POST", "/v1/detect?provenance=true", whole)
            before = handles(server), memory(server)

            def one(item: tuple[str, bytes]) -> tuple[int, str, float]:
                start = time.perf_counter()
                status, answer = server.json("POST", "/v1/detect?provenance=true", item[1])
                return status, answer.get("error", {}).get("code", "ok"), time.perf_counter() - start

            answers = list(pool.map(one, mutated(seeds(), files, seed=1)))
            print(f"{files} files:", dict(Counter((s, c) for s, c, _ in answers)))
            print(f"slowest {max(t for _, _, t in answers):.2f} s")
            start = time.perf_counter()
            statuses = Counter(s for s, _ in pool.map(lambda _: server.json("POST", "/v1/detect", b"x"), range(tiny)))
            print(f"{tiny} tiny requests: {dict(statuses)}, {tiny / (time.perf_counter() - start):.0f} a second")
            assert server.json("POST", "/v1/detect", whole)[0] == 200
            time.sleep(1)
            print("handles, MB before:", before, "after:", (handles(server), memory(server)))
            print(json.dumps({"images at work": server.figure("univfd_images_at_work")}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
