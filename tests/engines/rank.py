"""One rank of ``ranks.py``: ``rank.py CALL``."""

import os
import pickle
import sys
from pathlib import Path

import engine_cases

path = Path(sys.argv[1])
name, arguments = pickle.loads(path.read_bytes())
rank = os.environ["RANK"]
result = getattr(engine_cases, name)(int(rank), **arguments)
Path(f"{path}.{rank}").write_bytes(pickle.dumps(result))
