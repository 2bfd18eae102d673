"""A page on this computer: teach classes by drawing or dropping images, and see why the model decides."""
