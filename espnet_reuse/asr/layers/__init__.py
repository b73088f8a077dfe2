# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Layers with attention maps; on CUDA, Triton kernels compute them."""

import espnet_reuse.asr.layers.attention_map_triton  # noqa: F401
