"""What each rule does, one module a stage."""
