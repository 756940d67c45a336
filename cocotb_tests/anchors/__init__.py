"""Literal values, copied by hand from published sources and recordings, against the declarations.

Nothing in these files is computed from `pymodel.spec`: they are what keeps a mistake there from being shared
by the model, the RTL and the documentation.
"""
