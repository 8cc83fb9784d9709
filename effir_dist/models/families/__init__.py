"""One module for each family of models: all that the product must know of it."""
