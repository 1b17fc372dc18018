"""A residual transformer that learns from masks, boxes or image tags."""
