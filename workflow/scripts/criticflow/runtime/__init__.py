"""What surrounds a stage while it runs: processes that it owns, locks, Slurm, memory."""
