"""Boxes, masks and polygons on images; contact sheets."""
