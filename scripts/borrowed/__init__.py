"""joblib's own tests of ``Parallel``, aimed at other backends; ``scripts/joblib-tests`` runs them.

===========  ===================================================================
``aiming``   joblib's test file with another backend in the place of its own
``running``  a program that runs it, and what came of each test
``sample``   a backend as plain as can be, for comparison
===========  ===================================================================
"""
