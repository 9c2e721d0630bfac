"""Evaluation: metrics of a method, and interpretation of its learned prompt."""
