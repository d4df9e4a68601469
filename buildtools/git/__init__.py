"""Repository to version, without git.

* ``checkout``   what the repository says about one run
* ``describe``   the name of a commit, in process or as ``python -m buildtools.git.describe``
* ``naming``     from a commit to its name and back
* ``storage``    what lies in the git folder
* ``worktree``   whether the work tree is dirty
* ``tagging``    cutting and pushing release tags; dulwich is imported nowhere else
"""
