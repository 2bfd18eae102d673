"""Where the algorithm meets its theory: what the outer gradient of a real model is made of."""
