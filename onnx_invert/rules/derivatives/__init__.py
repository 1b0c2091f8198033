"""How each operation is differentiated, by family. One function per operation; `rules.__init__` composes them.

A rule states the linear map near a point and its adjoint; what is done with it (accumulation, a Jacobian, Newton's
method) is `build`'s. Operations whose inverse rule already says their derivative are not listed again.
"""
