"""The back door: reports wait in the outbox and go to each destination."""
