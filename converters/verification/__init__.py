"""Published datasets read back by other libraries and held against the masks."""
