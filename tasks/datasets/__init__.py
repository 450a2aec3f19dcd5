"""Data sets, one module each: every `load(folder) -> Data` here registers itself under its name."""
