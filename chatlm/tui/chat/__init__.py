"""The open chat: controller, transcript, turns and replies."""
