"""The one error that says why a volume cannot be used."""


class VolumeError(ValueError):
    """A volume cannot be read, or only with a wrong geometry; the text names the file, the cause and a remedy."""
