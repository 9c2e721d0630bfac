"""The data sets of the papers: a table of them, and how to download, check and read them."""
