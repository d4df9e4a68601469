"""Images, from their folders to the engine and to the registry. docker is imported nowhere else.

Imports run downward only:

* ``assembly``   brings images into the engine: tagged, pulled or built
* ``survey``     the status of every folder;  ``push``: where engine and registry meet
* ``bases``      images from outside that folders are built on
* ``engine``     the engine's API, the build, and ``buildkit`` below it
* ``registry``   the registry protocol alone;  ``folder``: Dockerfile, context, fingerprint
* ``docker``     what a user's Docker configuration says
* ``http``       connections and responses, shared by the clients of engine and registry
* ``reference``  what an image is called
"""
