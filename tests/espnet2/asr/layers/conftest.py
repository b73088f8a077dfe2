# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Lets tests of the operators take the inputs of test_attention_map.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
