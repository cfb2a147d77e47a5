"""What airway masks measure, without a reference."""
