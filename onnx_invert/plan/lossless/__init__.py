"""Which latents complete a network to a bijection x ↔ (y, z): steps, their latents, ways, the cheapest of them.

Every tensor that depends on x can be had in one of four ways, each with a price in numbers a sample:

    undo    from the output of a node that uses it, and the latent of that node's completion
    join    from several selections of its elements (slices, splits, gathers), and what none of them holds
    run     forwards, from the operands of the node that makes it, once those are known
    keep    from a latent that is the tensor itself

`links` says what a completion loses, `ways` lists the ways, `search` takes the cheapest, `completed` is the result.
"""
