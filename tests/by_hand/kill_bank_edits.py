"""Kills edits of a bank store at 50 random moments: `python tests/by_hand/kill_bank_edits.py [FOLDER]`."""

import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_store import kill_at_random

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
print(kill_at_random(folder / "store", 50, random.Random(1), repeats=50))
