"""Data directories of Kaldi's form."""
