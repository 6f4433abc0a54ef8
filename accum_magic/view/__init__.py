"""Showing what happened. Knows Jupyter; never imports torch or `cell/`."""
