"""The papers' experiments: their runs and settings, and sweeps that do them and record the results.

Import from the modules, or from `cocoop` itself; this package imports nothing, so that records can be read without
PyTorch.
"""
