# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Data preparation that the recipes share."""
