"""Recipes, a file a paper: rows and attributes. Their machinery is in ``training``."""
