"""The report: its pages, tables and plots, and the file that holds them all."""
