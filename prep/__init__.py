"""Raw files → data/<name>/: the only code that knows a foreign format."""
