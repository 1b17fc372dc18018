"""Weights, images as tensors, devices and processes: what the trainers share."""
