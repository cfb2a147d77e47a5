"""How a recipe is trained: in phases, on airways, with maps beside the labels. What is trained is in ``trainers``."""
