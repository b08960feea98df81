"""Anybody's files → data sets: prep.sh for the command line, from_python.py for Python."""
