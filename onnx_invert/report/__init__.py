"""What is told of an inversion: tables for people, JSON for programs. Formats results, computes none."""
