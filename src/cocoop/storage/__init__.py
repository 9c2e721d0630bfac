"""Files: atomic writes, JSON with checksums and schemas, locks, tensor files."""
