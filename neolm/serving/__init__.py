"""Serving: an engine that decodes many requests together, and the HTTP server that uses it."""
