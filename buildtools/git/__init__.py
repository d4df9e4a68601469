"""From a repository to a version, without the git program.

* ``checkout``   the commit that is checked out: version, date, source
* ``describe``   the name of a commit, in process or as ``python -m buildtools.git.describe``
* ``naming``     from a commit to its name and back
* ``storage``    objects, packs and refs in the git folder
* ``worktree``   whether the work tree is dirty
* ``tagging``    creating and pushing release tags; the only place that imports dulwich
"""
