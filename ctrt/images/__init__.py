"""Images: from a registry or the host into a content store, and from there to layers on disk."""
