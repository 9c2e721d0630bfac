"""Files: atomic writes, JSON with checksums, tensors, hashes, locks and the cache directory."""
