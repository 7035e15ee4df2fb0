"""BertsWin masked autoencoders for 3D medical images: what the bundles are made of."""

__version__ = "0.1.0"
