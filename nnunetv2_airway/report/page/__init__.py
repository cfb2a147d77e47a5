"""A page that shows evaluations: one HTML file that needs nothing else, neither files nor a network."""
