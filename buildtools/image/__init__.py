"""Images, from their folders to the engine and to the registry. docker is imported nowhere else.

* ``folder``     what an image folder is: Dockerfile, context, fingerprint
* ``bases``      images from outside that folders are built on
* ``survey``     where every folder stands
* ``assembly``   brings images into the engine: named, pulled or built
* ``build``      builds one, with ``buildkit``
* ``engine``     the engine's API
* ``registry``   a registry, and how images get there
"""
