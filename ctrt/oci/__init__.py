"""The OCI documents as values: references, media types, manifests, image configurations."""
