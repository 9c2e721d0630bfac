"""Training: the loop, image features, run directories and several processes."""
