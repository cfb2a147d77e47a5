"""Airway segmentation in chest CT as a plugin for nnU-Net v2. Importing it lets nnU-Net find its trainers."""

from nnunetv2_airway.discovery import register

__version__ = "0.2.0"

register()
