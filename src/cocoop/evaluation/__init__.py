"""Evaluation: measure a method, and interpret what it learned."""
