"""Model_type -> family."""
