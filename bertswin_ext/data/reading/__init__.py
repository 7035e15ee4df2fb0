"""Reading volumes: correctly, or not at all and why."""
