"""What runs the two graphs. `base` is the seam, the other modules stand behind it."""
