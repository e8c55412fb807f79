"""What is asked of a model behind an endpoint, and how a result is made of what it tells."""
