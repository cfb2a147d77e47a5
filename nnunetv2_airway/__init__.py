"""Airway segmentation in chest CT as a plugin for nnU-Net v2. Importing it lets nnU-Net find its trainers."""

from nnunetv2_airway.discovery import register

__version__ = "0.2.0"

register()


def __getattr__(name: str):
    if name == "measure":  # late: Python itself imports this package at each start, see discovery
        from importlib import import_module

        return import_module("nnunetv2_airway.measurement.measure").measure
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
