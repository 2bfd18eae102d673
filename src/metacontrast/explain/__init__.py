"""What a trained run's outer gradient is made of, as numbers, pictures and a page for people."""
