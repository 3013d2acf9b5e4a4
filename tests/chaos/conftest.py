from __future__ import annotations

import sys

if sys.platform == "win32":  # no process can be frozen there
    collect_ignore_glob = ["test_*.py"]
