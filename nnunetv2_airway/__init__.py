"""Airway segmentation in chest CT as a plugin for nnU-Net v2. Importing it lets nnU-Net find its trainers."""

from nnunetv2_airway.discovery import register

__version__ = "0.2.0"

register()


_OFFERED = {"measure": "nnunetv2_airway.measurement.measure", "segment": "nnunetv2_airway.inference.segment"}


def __getattr__(name: str):
    if name in _OFFERED:  # late: Python itself imports this package at each start, see discovery
        from importlib import import_module

        return getattr(import_module(_OFFERED[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
