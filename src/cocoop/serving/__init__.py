"""A trained prompt behind HTTP: a typed JSON API and a page, in one process (extra `serve`)."""
