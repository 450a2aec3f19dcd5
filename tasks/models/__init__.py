"""Models, one module each: every `build(num_classes, (C, H, W))` here registers itself under its name."""
