"""Features and head: what is learned, and nothing about how."""
