"""The papers' experiments: their runs and settings, and sweeps that run them and record the results.

Import from the modules, or from `cocoop` itself; this package imports nothing, so that records can be read without
PyTorch.
"""
