"""Models of text and what scores them."""
