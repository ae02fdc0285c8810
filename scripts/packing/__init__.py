"""What is made for those who install the package, and what is looked at before they do.

================  =====================================================================================
``building``      an sdist from what the repository holds, and a wheel from the sdist; what is in both
``places``        virtual environments with nothing in them but what they are given
``trying``        what is tried in one: the core, the command line, each extra with and without
``publicity``     every public name, and whether a type checker knows what it is
``trials/``       the programs that are run there
================  =====================================================================================
"""
