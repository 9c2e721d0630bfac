"""The offline demo: a comparison of all methods on drawn images."""
