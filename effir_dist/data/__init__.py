"""BEIR-format data sets and training pairs."""
