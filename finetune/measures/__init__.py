"""Image, box and pixel measures, thresholds and resampling: arrays in, numbers out."""
