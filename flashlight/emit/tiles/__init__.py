"""Expressions to Triton, in layers: `values`, `loads`, `products`, `arithmetic`, and `writer` on top.

Everything here is driven by the axes of an expression. A product summed over an axis becomes ``tl.dot`` because of
which axes its factors have, not because of where in an attention program it stands.
"""
