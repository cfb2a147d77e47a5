"""Maps that are computed from each label once and follow augmentation: centerline, numbered components or branches."""
