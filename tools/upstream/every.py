# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Have pytest run WHOLE_FILES, and of other files one test in EVERY (environment)."""

import os
from pathlib import Path


def pytest_collection_modifyitems(items):
    """Leave out the others."""
    whole = {Path(name).resolve() for name in os.environ["WHOLE_FILES"].split()}
    others = [item for item in items if item.path not in whole]
    chosen = set(others[:: int(os.environ["EVERY"])])
    items[:] = [item for item in items if item in chosen or item.path in whole]
