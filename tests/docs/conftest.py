# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Lets the tests of the documentation import how pages are read."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for pages
