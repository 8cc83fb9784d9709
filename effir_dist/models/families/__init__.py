"""One module for each family of models, which says all that the product must know of it.

To add a family, add a module here with `FAMILY = Family(...)`; `base.Family` says what each field means, and `formulas`
has what several families share. It is found by itself, tests run over it, and no other file names it. A family outside
of this package is given to `registry.register`.
"""
