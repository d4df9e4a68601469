"""Images, from their folders to the engine and the registry. Only this package imports docker.

Imports run downward only:

* ``builders``   building with BuildKit daemons and other builders that push to a registry
* ``assembly``   brings images into a builder: they are tagged, pulled or built
* ``survey``     the status of every folder; ``push``: from an engine into a registry
* ``bases``      external base images
* ``engine``     the engine's API and builds, with ``buildkit`` below it; ``layout``: images as files
* ``builder``    the protocol that assembly needs from a builder
* ``registry``   the registry protocol; ``folder``: Dockerfile, context, fingerprint
* ``docker``     the user's Docker configuration
* ``http``       connections and responses, shared by the clients of engine and registry
* ``reference``  image references; ``generation``: which build of its parents an image was made from
"""
