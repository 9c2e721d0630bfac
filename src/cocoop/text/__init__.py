"""The conditional text tower: prompts as packed positions, and the transformer that reads them."""
