"""Components shared by all bundles of this repository.

Only relative imports are used inside this package, so that a copy of it can live in a bundle's directory.
"""

__version__ = "0.1.0"
