"""What makes a search space into a weight-sharing network."""
