"""Small versions of the headline results of the papers that the backbone follows."""
