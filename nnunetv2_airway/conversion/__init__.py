"""Airway data sets as nnU-Net raw data: reading CTs and labels so that nothing is misread, lung box, report."""
