"""Catalog: the fifteen data sets of the CoOp and CoCoOp papers."""
