"""How a forward or backward pass is computed as fast as the device allows: attention, norms, linear layers.

Each way is taken within a `with` block, for one model, and computes what transformers does. What it holds of
the weights ends with the block.
"""
