"""A store of the user's own documents, and the HTTP service that searches it."""
