"""Records and arrays in, matplotlib figures out: no torch, no training, no global state."""
