"""Shards: data sets in WebDataset tar and Parquet files."""
