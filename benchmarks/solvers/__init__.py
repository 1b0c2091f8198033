"""Ways of finding an x with f(x) = y, one module for each runtime or framework, all given the same `Problem`."""
