"""Install models, collections, training examples and calibration texts, and check them."""
