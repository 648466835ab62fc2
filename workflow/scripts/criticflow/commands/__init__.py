"""What a person calls beside the workflow, one module a command."""
