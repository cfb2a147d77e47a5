"""From a CT to its airway tree: published networks, prediction, post-processing, DICOM SEG."""
