"""Reports on the outer gradient of a trained run: numbers, pictures and a page for people."""
