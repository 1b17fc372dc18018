"""Readers of source folders, one a layout: images, masks and what they show."""
