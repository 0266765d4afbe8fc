"""Cloud call centres: one file a provider, all with the face of `provider.py`."""
