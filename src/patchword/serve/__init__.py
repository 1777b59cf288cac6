"""The HTTP server: models and an index of photos for many clients at once."""
