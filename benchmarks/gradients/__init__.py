"""How fast an outer gradient is, beside other libraries and beside the convolutions alone."""
