"""Comparison of models that are trained, decoded and scored alike."""
