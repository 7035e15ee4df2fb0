"""What `ProfileHandler` is made of: the parts of an iteration, their times, the trace, and the page."""
