"""Figures and pictures of a prediction against its reference."""
