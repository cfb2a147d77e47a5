"""Maps derived from one airway mask: centerline and what is built on it."""
