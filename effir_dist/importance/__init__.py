"""Which parts of a model may go: importance of sub-layers, saliency of neurons."""
