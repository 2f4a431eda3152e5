"""Documents to search, and the HTTP service that searches them."""
