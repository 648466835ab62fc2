"""Estimators on arrays and tables. Imports no torch, reads no files."""
