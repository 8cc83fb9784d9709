"""Architectures, surgery on them, and encoding."""
