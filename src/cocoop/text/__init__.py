"""The text side of CLIP: class names to tokens, prompts as a tree, and the transformer that encodes them."""
