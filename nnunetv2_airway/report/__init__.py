"""Evaluations as tables beside published figures, and as a page that shows the trees."""
