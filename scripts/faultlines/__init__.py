"""The fault table: what mpengine and its peers do when the same things go wrong.

items       what the items do, and which of them goes wrong how
peers       every library at a plain use of it, behind one small interface
cell        the program that is run for one library and one fault
driving     starts that program, does to it what has to come from outside, and sees what is left of it
judging     from what was seen to the words of the table
"""
