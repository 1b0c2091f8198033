"""The picture of a plan: the network and, beside it, what its inverse does at each node. Draws plans, makes none."""
