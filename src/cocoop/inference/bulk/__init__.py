"""Labelling very many photos: in pieces that are done once each, on one machine or on a Ray cluster."""
