"""Raw rows of runs, on their way from one working directory to another."""
