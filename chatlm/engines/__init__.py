"""One loaded model: Request in, events out."""
