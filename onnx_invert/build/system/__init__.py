"""The inverse of a model whose equations are solved piece by piece and block by block, as a graph."""
