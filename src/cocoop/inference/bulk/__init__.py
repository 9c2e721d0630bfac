"""Bulk labelling: label very many images in chunks, in this process or on a Ray cluster."""
