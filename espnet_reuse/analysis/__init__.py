# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Analysis of attention maps: where they look, and which layers may share one."""
