"""Drawn products and defects, and real defects pasted into good images."""
