"""Saved prompts: save and load them, publish them on the Hugging Face hub, import the papers' checkpoints."""
