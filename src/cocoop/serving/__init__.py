"""Serving: a trained prompt behind a JSON API and a web page (extra `serve`)."""
