"""The offline demonstration: a drawn world of labelled pictures, and a run of all methods on it."""
