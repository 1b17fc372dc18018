"""Many runs on Ray, and learning curves."""
