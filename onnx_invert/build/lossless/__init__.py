"""The two files of a lossless pair: the network with its latents as outputs, the inverse with them as inputs.

f⁺   the model as it was read, node for node, and the nodes that compute z after them
g⁺   x from y and z; where z is left out, the plain inverse
"""
