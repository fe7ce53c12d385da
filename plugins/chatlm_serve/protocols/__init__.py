"""The protocols that clients speak, one file each over the same requests and reply events."""
