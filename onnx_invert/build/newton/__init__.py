"""Inverses that solve f(x) = y inside the graph: the equations, the steps, the loop around them."""
