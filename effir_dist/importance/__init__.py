"""Which sub-layers and neurons may go."""
