"""`learn2learn`'s MAML on this library: change `import learn2learn as l2l` to

    from metacontrast.compat import learn2learn as l2l

and `l2l.algorithms.MAML` is here, with the same names, defaults and results. The rest of learn2learn is not;
`docs/migrating.md` says what to use in its place.
"""

from metacontrast.compat.learn2learn import algorithms

__all__ = ["algorithms"]
__getattr__ = algorithms.__getattr__
