"""Many cohorts: what is to do, where it runs, what is left."""
