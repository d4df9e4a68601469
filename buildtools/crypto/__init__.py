"""Keys, and what is signed with them. All cryptography is that of ``cryptography`` and ``nacl``."""
