"""Keys and signatures. All cryptography is in the libraries ``cryptography`` and ``nacl``."""
