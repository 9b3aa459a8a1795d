"""The durable protocol, written once: generators that yield effects and know neither colour nor driver.

Rules that keep them simple: a generator runs wholly in one colour; no `with` around a `yield`;
`yield from` the typed helpers of `effects`, never a bare `x = yield`; the driver rolls back what is open.
"""
