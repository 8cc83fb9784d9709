"""Data sets by name: `beir:`, `hf:` and `mteb:`. Each becomes a BEIR-format folder in the user's cache, once."""
