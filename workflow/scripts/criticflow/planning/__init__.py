"""What Snakemake needs when it reads the workflow: sources, working directory, its patch."""
