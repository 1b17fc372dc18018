"""The CNN classifier: recipes, networks, training, heat maps."""
