"""Airway segmentation in chest CT as a plugin for nnU-Net v2."""

__version__ = "0.2.0"
