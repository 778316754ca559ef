"""The keys of a site: certificates, signing keys, and what the broker must know of them."""
