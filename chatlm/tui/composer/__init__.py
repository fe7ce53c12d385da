"""The composer: drafts, completion, attachments and folded pastes."""
