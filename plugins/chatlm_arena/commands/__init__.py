"""`chatlm arena ...`."""
