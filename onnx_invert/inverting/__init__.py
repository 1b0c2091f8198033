"""The stages of `invert`, one a file: what is asked for, the plan and all that its graph is built from, the pair of a
lossless inversion, the round trips and what they leave of the promise, and the order of all these."""
