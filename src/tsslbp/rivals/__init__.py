"""Models with learning rules of their own, each with the reference experiment of its paper.

They are not rules on this library's layers: their neurons, or what they compute, differ. Those that can be put on its layers
are in ``rules/``.
"""
