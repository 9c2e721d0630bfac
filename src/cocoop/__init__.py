"""cocoop."""
