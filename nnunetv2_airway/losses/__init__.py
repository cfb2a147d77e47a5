"""Losses: equations in functional.py, modules that unpack nnU-Net's outputs beside it."""
