"""Mask file -> mask -> instances -> exact outlines."""
