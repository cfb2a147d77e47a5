"""The public airway data sets, a row of facts each: where their files lie, licence, what to know before training."""

from nnunetv2_airway.conversion.datasets import aeropath, aiib23, atm22, atm26, bas, exact09

LAYOUTS = {layout.command: layout for layout in (row.LAYOUT for row in (atm22, bas, exact09, aiib23, aeropath, atm26))}
"""By subcommand of ``nnUNetv2_airway_convert``."""
