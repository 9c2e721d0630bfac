"""Training: the loop, its steps, image features, run directories and several processes."""
