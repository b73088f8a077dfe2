# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Benchmark of the reuse encoders: `python -m espnet_reuse.bin.benchmark`."""

import logging

# torch.utils.benchmark warns where there is a CUDA toolkit and no GPU
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
