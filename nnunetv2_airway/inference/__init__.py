"""What happens to a prediction after the network."""
