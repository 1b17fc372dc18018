"""The split, the one loop over all masks, tiles, and the card of what was written."""
