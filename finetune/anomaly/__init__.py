"""Memory of good patches."""
