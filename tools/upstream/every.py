# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Have pytest run the files that it is given, and of folders every `EVERY`th test."""

import os
from pathlib import Path


def pytest_collection_modifyitems(config, items):
    """Leave out the others."""
    given = {Path(argument).resolve() for argument in config.args}
    nth = set(items[:: int(os.environ["EVERY"])])
    items[:] = [item for item in items if item in nth or item.path in given]
