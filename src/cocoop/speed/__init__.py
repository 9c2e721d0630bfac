"""Speed: ours beside the published computation, in one run on one machine."""
