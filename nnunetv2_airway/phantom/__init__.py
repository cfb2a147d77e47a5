"""Synthetic chest CTs in Hounsfield units with the airway tree that is in them.

Positions are in mm, axis order (z, y, x), measured from the centre of the first voxel; z points to the head, y to
the back, x to the patient's left, so that an identity direction matrix is right.
"""
