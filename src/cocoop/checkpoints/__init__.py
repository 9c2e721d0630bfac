"""Checkpoints: save and load trained prompts, and publish them on the Hugging Face hub."""
