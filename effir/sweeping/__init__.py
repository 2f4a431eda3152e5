"""From a target to the best model that meets it: which trials to run, when to give one up, which one wins."""
