"""What is between us and an HTTP endpoint; nothing here knows what is asked."""
