"""What the report shows, and the report itself."""
