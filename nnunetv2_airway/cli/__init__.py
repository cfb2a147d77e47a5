"""Console commands: argparse, then one call."""
