"""What a stage runs in: owned processes, locks, Slurm, memory."""
