"""Networks; no loss and no plans in here."""
