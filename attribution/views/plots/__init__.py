"""How a result is drawn by matplotlib, which is an extra."""
