"""What chatlm is measured against, side by side in one run."""
