"""Geometry of one airway tree, from its mask: centerline, branches, lengths and diameters, surface, files of these."""

from nnunetv2_airway.tree.parse import AirwayTree, parse_tree

__all__ = ["AirwayTree", "parse_tree"]
