"""What is told of an inversion: JSON for programs, pictures of plans for people. Formats results, computes none."""
