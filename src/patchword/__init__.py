"""Image patches and words in one space."""
