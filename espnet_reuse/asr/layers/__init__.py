# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Layers with attention maps; on CUDA a Triton kernel computes them."""

from espnet_reuse.asr.layers import attention_map, attention_map_triton

attention_map.kernel = attention_map_triton.kernel
