"""Train an adapter on pairs of replies of which one was preferred."""
