"""nnU-Net trainers: wiring only, a variant is a class that sets attributes."""
