"""Kills edits and index builds of a bank store at random moments, more often than the suite does.

python tests/by_hand/kill_bank_edits.py [EDITS] [BUILDS] [SEED]
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import random_bank
from test_store import kill_at_random
from test_store_index import kill_builds
from univfd.store import BankStore, Rows, indexing
from univfd.store.adding import add_rows

if __name__ == "__main__":
    given = [int(a) for a in sys.argv[1:]]
    edits, builds, seed = given + [35, 15, 0][len(given) :]
    with tempfile.TemporaryDirectory() as scratch:
        indexing.EXACT_ROWS = 1_000  # a large store, for a test
        bank = random_bank(20_000, 3, 64)
        store = BankStore.create(Path(scratch) / "builds", bank.space)
        add_rows(store, Rows.of(bank), "rows", "import", store.snapshot())
        print("index builds", kill_builds(store, builds, random.Random(seed), longest=3.0), flush=True)
        print("edits", kill_at_random(Path(scratch) / "edits", edits, random.Random(seed), repeats=edits), flush=True)
