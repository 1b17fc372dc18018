"""A dataset as trainers see it, and the run folder: all that training and comparison share. No torch."""
