"""Data sets in shards: WebDataset tar files and Parquet files."""
