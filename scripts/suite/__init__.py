"""What scripts/up, down and status are made of."""
