"""The fibre of y, all x with f(x) = y: points on it, sampled around data or reached by latents.

networks.py runs f, its derivative and g⁺ on rows; proposals.py says where to start; fibre.py projects, verifies and
keeps. The mathematics of projecting is numpy alone and lies in numerics/.
"""
